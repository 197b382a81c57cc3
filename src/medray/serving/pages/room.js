// The reading room: choose an image, run a model on it, look at both. Talks to this server alone, by the same routes as anybody.
import { Niivue, NVImage } from "/pages/vendor/niivue.js";

const $ = (id) => document.getElementById(id);
const ROUTES = { segmentation: "segment", diagnosis: "diagnose", detection: "detect" };
const COLOURS = [[230, 75, 53], [77, 187, 213], [0, 160, 135], [243, 195, 0], [132, 145, 180], [240, 100, 180], [145, 209, 120], [255, 150, 60]];
const PAGE = 50;

const state = { token: sessionStorage.getItem("token") ?? "", image: null, turn: 0, models: [], after: "", colours: null, hidden: new Set(), lookup: null };
const nv = new Niivue({ isRadiologicalConvention: true, backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairWidth: 1, crosshairWidthUnit: "mm", dragAndDropEnabled: false, loadingText: "" });

class Refused extends Error {}

async function ask(path, { body = null, json = null, accept = "application/json" } = {}) {
  const headers = { Accept: accept };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  if (json) headers["Content-Type"] = "application/json";
  const payload = json ? JSON.stringify(json) : body;
  const reply = await fetch(path, payload === null ? { headers } : { method: "POST", headers, body: payload });
  if (reply.ok) return reply;
  if (reply.status === 401) $("login").hidden = false;
  const said = await reply.json().catch(() => ({}));
  throw new Refused(said.detail ?? `the server answered ${reply.status}`);
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function attempt(work) {
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    say(error instanceof Refused ? error.message : `this failed: ${error.message}`, true);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

function element(name, text = "", facts = {}) {
  const made = Object.assign(document.createElement(name), facts);
  if (text) made.textContent = text;
  return made;
}

// --- images

async function loaded(blob, name, options = {}) {
  const url = URL.createObjectURL(blob);
  try {
    return await NVImage.loadFromUrl({ url, name, ...options });
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function open(image, title) {
  const turn = ++state.turn; // whatever is still on its way belongs to another image from here on
  say(`Opening ${title} …`);
  state.image = null;
  clearResult();
  ready();
  const reply = await ask("/v1/view", image.file ? { body: image.file } : { json: image });
  const volume = await loaded(await reply.blob(), "image.nrrd");
  if (turn !== state.turn) return;
  while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
  nv.addVolume(volume);
  state.image = image;
  $("drop").hidden = true;
  ready();
  say(`${title} is open.`);
}

async function openFile(file) {
  if (file) await open({ file }, "The file");
}

async function listImages() {
  const reply = await ask(`/v1/images?most=${PAGE}&after=${encodeURIComponent(state.after)}`);
  const { images } = await reply.json();
  for (const image of images) {
    const item = element("li", "", { id: `image-${image.image}`, role: "option" });
    item.dataset.image = image.image;
    item.append(element("span", image.subject), element("small", `${image.modality} ${image.shape.join("×")}${image.tags.length ? ` · ${image.tags.join(", ")}` : ""}`));
    item.addEventListener("click", () => choose(item));
    $("images").append(item);
  }
  state.after = images.at(-1)?.image ?? state.after;
  $("more").hidden = images.length < PAGE;
  $("worklist").hidden = $("images").children.length === 0;
}

function choose(item) {
  for (const other of $("images").children) other.setAttribute("aria-selected", String(other === item));
  $("images").setAttribute("aria-activedescendant", item.id);
  item.scrollIntoView({ block: "nearest" });
  attempt(() => open({ image: item.dataset.image }, `Image of ${item.firstChild.textContent}`));
}

function walk(event) {
  const items = [...$("images").children];
  const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to === undefined || !items[to]) return;
  event.preventDefault();
  choose(items[to]);
}

// --- models

async function listModels() {
  const { models } = await (await ask("/v1/models")).json();
  state.models = models.filter((model) => ROUTES[model.task]);
  $("model").replaceChildren(...state.models.map((model) => element("option", `${model.model} · ${model.task}`, { value: model.model })));
  describe();
}

const chosen = () => state.models.find((model) => model.model === $("model").value);

function describe() {
  const model = chosen();
  if (!model) return;
  const scores = Object.entries(model.scores).map(([split, found]) => [`scores, ${split}`, Object.entries(found).map(([label, score]) => `${label} ${score.toFixed(3)}`).join(", ")]);
  const facts = [["version", model.model], ["aliases", model.aliases.join(", ") || "none"], ["task", model.task], ["tells apart", Object.keys(model.targets).join(", ")],
    ["modalities", model.modalities.join(", ")], ["intended use", model.intended_use], ...scores];
  $("card").querySelector("dl").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  ready();
}

const ready = () => { $("run").disabled = !(state.image && chosen()); };

async function run() {
  const model = chosen(), turn = ++state.turn;
  say(`${model.model} is at work …`);
  $("run").disabled = true;
  clearResult();
  const path = `/v1/${ROUTES[model.task]}/${model.model}`;
  try {
    const reply = await ask(path, { ...(state.image.file ? { body: state.image.file } : { json: state.image }), accept: "multipart/form-data" });
    const form = await reply.formData();
    const result = JSON.parse(await form.get("result").text?.() ?? form.get("result"));
    const image = form.get("image"), heat = result.probabilities ? { colormap: "hot", cal_min: 0.1, cal_max: 1 } : {};
    const overlay = image && await loaded(image, "result.nrrd", { opacity: Number($("opacity").value), ...heat });
    if (turn !== state.turn) return;
    tell(model, result, image, overlay);
    times(reply.headers.get("Server-Timing") ?? "");
    say(`${result.model} has answered.`);
  } finally {
    ready();
  }
}

// --- results

function clearResult() {
  while (nv.volumes.length > 1) nv.removeVolume(nv.volumes.at(-1));
  state.hidden.clear();
  state.lookup = null;
  for (const id of ["answer", "timing", "save"]) $(id).hidden = true;
}

function tell(model, result, image, overlay) {
  if (overlay) {
    nv.addVolume(overlay);
    Object.assign($("save"), { href: URL.createObjectURL(image), download: "result.seg.nrrd", hidden: false });
  }
  if (result.volumes_ml) segmentation(model, result);
  if (result.probabilities) diagnosis(result);
  if (result.boxes) detection(result);
  $("answer").hidden = false;
}

function table(heads, rows) {
  $("answer").querySelector("thead tr").replaceChildren(...heads.map((head, index) => element("th", head, { scope: "col", className: index ? "number" : "" })));
  $("answer").querySelector("tbody").replaceChildren(...rows.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell, index) => {
      const made = element("td", typeof cell === "string" ? cell : "", { className: index ? "number" : "" });
      if (typeof cell !== "string") made.append(cell);
      return made;
    }));
    return row;
  }));
}

function segmentation(model, result) {
  const names = Object.entries(model.targets);
  state.lookup = () => {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
    names.forEach(([name, value], index) => {
      const [red, green, blue] = COLOURS[index % COLOURS.length];
      table.R.push(red); table.G.push(green); table.B.push(blue); table.I.push(value); table.labels.push(name);
      table.A.push(state.hidden.has(name) ? 0 : 255);
    });
    nv.volumes[1].setColormapLabel(table);
    nv.updateGLVolume();
  };
  state.lookup();
  table(["label", "ml"], names.map(([name], index) => {
    const label = element("label");
    const box = element("input", "", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](name);
      state.lookup();
    });
    const swatch = element("span", "", { className: "swatch" });
    swatch.style.background = `rgb(${COLOURS[index % COLOURS.length].join(" ")})`;
    label.append(box, " ", swatch, name);
    return [label, result.volumes_ml[name].toFixed(2)];
  }));
}

function diagnosis(result) {
  const found = Object.entries(result.probabilities);
  table(["finding", "probability"], found.map(([name, probability], frame) => {
    const button = element("button", name, { type: "button", title: "Show what speaks for it" });
    button.addEventListener("click", () => { if (nv.volumes[1]) nv.setFrame4D(nv.volumes[1].id, frame); });
    return [button, probability.toFixed(3)];
  }));
}

function detection(result) {
  table(["finding", "score"], result.boxes.map((box, number) => {
    const button = element("button", `${box.label} ${number + 1}`, { type: "button", title: "Go there" });
    button.addEventListener("click", () => {
      const [x, y, z] = box.centre_mm; // LPS; NiiVue's world is RAS
      nv.scene.crosshairPos = nv.mm2frac([-x, -y, z]);
      nv.drawScene();
    });
    return [button, box.score.toFixed(2)];
  }));
  if (!result.boxes.length) table(["finding"], [["nothing found"]]);
}

function times(header) {
  const stages = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, duration]) => [name, Number(duration)]);
  const whole = Math.max(...stages.map(([, duration]) => duration), 1);
  $("timing").querySelector("tbody").replaceChildren(...stages.map(([name, duration]) => {
    const row = element("tr"), bar = element("td", "", { className: "bar" }), line = element("i");
    line.style.width = `${(100 * duration) / whole}%`;
    bar.append(line);
    row.append(element("td", name), bar, element("td", `${duration.toFixed(0)} ms`, { className: "number" }));
    return row;
  }));
  $("timing").hidden = false;
}

// --- the page

async function enter() {
  await listModels();
  $("images").replaceChildren();
  state.after = "";
  await listImages();
  $("login").hidden = true;
  $("who").hidden = !state.token;
  $("who").querySelector("span").textContent = state.token ? "Logged in" : "";
}

function move(event) {
  const step = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], PageUp: [0, 0, 5], PageDown: [0, 0, -5] }[event.key];
  if (!step || !nv.volumes.length) return;
  event.preventDefault();
  nv.moveCrosshairInVox(...step);
}

function listen() {
  $("file").addEventListener("change", (event) => attempt(() => openFile(event.target.files[0])));
  $("view").addEventListener("dragover", (event) => event.preventDefault());
  $("view").addEventListener("drop", (event) => { event.preventDefault(); attempt(() => openFile(event.dataTransfer.files[0])); });
  $("images").addEventListener("keydown", walk);
  $("more").addEventListener("click", () => attempt(listImages));
  $("model").addEventListener("change", describe);
  $("run").addEventListener("click", () => attempt(run));
  $("opacity").addEventListener("input", (event) => { if (nv.volumes[1]) nv.setOpacity(1, Number(event.target.value)); });
  $("planes").addEventListener("change", (event) => nv.setSliceType(Number(event.target.value)));
  $("canvas").addEventListener("keydown", move);
  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = $("token").value.trim();
    sessionStorage.setItem("token", state.token);
    attempt(async () => { await enter(); say("Open an image, choose a model, and run it."); });
  });
  $("logout").addEventListener("click", () => { sessionStorage.removeItem("token"); location.reload(); });
  nv.onLocationChange = (place) => { $("place").textContent = place.string ?? ""; };
}

await nv.attachToCanvas($("canvas"));
nv.setSliceType(nv.sliceTypeMultiplanar);
listen();
await attempt(enter);
