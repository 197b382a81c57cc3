// What every part of the page needs: elements, the server, and what to say when it refuses.

export const $ = (id) => document.getElementById(id);
export const COLOURS = [[230, 75, 53], [77, 187, 213], [0, 160, 135], [243, 195, 0], [132, 145, 180], [240, 100, 180], [145, 209, 120], [255, 150, 60]];
export const state = { token: sessionStorage.getItem("token") ?? "", image: null, turn: 0 };

export class Refused extends Error {}

export async function ask(path, { method = null, body = null, json = null, accept = "application/json", headers = {} } = {}) {
  const sent = { Accept: accept, ...headers };
  if (state.token) sent.Authorization = `Bearer ${state.token}`;
  if (json) sent["Content-Type"] = "application/json";
  const payload = json ? JSON.stringify(json) : body;
  const reply = await fetch(path, payload === null ? { method: method ?? "GET", headers: sent } : { method: method ?? "POST", headers: sent, body: payload });
  if (reply.ok) return reply;
  if (reply.status === 401) $("login").hidden = false;
  const said = await reply.json().catch(() => ({}));
  throw Object.assign(new Refused(said.detail ?? `the server answered ${reply.status}`), { status: reply.status });
}

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

export async function attempt(work) {
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    say(error instanceof Refused ? error.message : `this failed: ${error.message}`, true);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

export function element(name, text = "", facts = {}) {
  const made = Object.assign(document.createElement(name), facts);
  if (text) made.textContent = text;
  return made;
}

// Makes a list whose items are chosen by clicks and arrow keys.
export function walkable(list, chosen) {
  const choose = (item) => {
    for (const other of list.children) other.setAttribute("aria-selected", String(other === item));
    list.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
    chosen(item);
  };
  list.addEventListener("keydown", (event) => {
    const items = [...list.children];
    const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined || !items[to]) return;
    event.preventDefault();
    choose(items[to]);
  });
  list.addEventListener("click", (event) => { const item = event.target.closest("li"); if (item) choose(item); });
}
