// Annotation: one's cases of a project; paint, or say what is seen; hand it in; then see what others drew, and review.
import { beginPlaces, colourOf, endPlaces, placed, replaceOwn, showOthers, shownOf } from "/pages/places.js";
import { $, Refused, ask, attempt, element, say, state, walkable } from "/pages/shared.js";
import { colourTable, hollow, loaded, nv, open, swatch } from "/pages/viewer.js";

const REVIEWERS = ["reviewer", "operator", "admin"];
const LABEL = { segmentation: "application/x-nrrd", findings: "application/json", boxes: "application/json", points: "application/json" };
const work = { me: {}, project: null, path: "", whose: "mine", etag: "", start: 0, edits: 0, seconds: 0, since: 0, unsaved: false, outlines: new Map() };

const reviews = () => REVIEWERS.includes(work.me.role);
const places = () => ["boxes", "points"].includes(work.project.kind);
const precondition = () => (work.etag ? { "If-Match": work.etag } : { "If-None-Match": "*" });

// --- projects and cases

export async function enterProjects() {
  const reply = await ask("/v1/projects").catch((error) => { if (error.status !== 404) throw error; return null; });
  const { projects } = reply ? await reply.json() : { projects: [] };
  work.me = await (await ask("/v1/me")).json();
  const known = projects.filter((project) => LABEL[project.kind]);
  $("annotation").hidden = !known.length || work.me.role === "viewer";
  $("project").replaceChildren(...known.map((project) => element("option", project.name, { value: project.name })));
  if ($("annotation").hidden) return;
  $("project").onchange = () => attempt(async () => { if (leave()) await listCases(); else $("project").value = work.project.name; });
  work.known = known;
  await listCases();
}

async function listCases() {
  const project = work.known.find((one) => one.name === $("project").value), base = `/v1/projects/${project.name}`;
  work.project = project;
  const { cases } = await (await ask(`${base}/worklist`)).json();
  const others = reviews() ? (await (await ask(`${base}/cases`)).json()).cases : [];
  if (project !== work.project) return; // another one was chosen meanwhile
  const mine = new Set(cases.map((one) => one.image));
  const rows = [
    ...cases.map((one) => ({ image: one.image, name: one.subject, what: one.status, whose: "mine" })),
    ...others.filter((one) => !mine.has(one.image)).map((one) => ({ image: one.image, name: one.image, what: one.state, whose: "adjudicated" })),
  ];
  $("cases").dataset.project = work.project.name;
  $("cases").replaceChildren(...rows.map((row) => {
    const item = element("li", "", { id: `case-${row.image}`, role: "option" });
    Object.assign(item.dataset, { image: row.image, whose: row.whose });
    item.append(element("span", row.name), element("small", row.what));
    return item;
  }));
}

async function openCase(item) {
  const { image, whose } = item.dataset, project = work.project;
  if (!(await open({ image }, `Case ${item.firstChild.textContent}`))) return;
  const turn = state.turn; // what comes after another case was opened belongs to none
  const path = `/v1/projects/${project.name}/cases/${encodeURIComponent(image)}`;
  Object.assign(work, { path, whose, etag: "", start: 0, edits: 0, seconds: 0, since: performance.now(), unsaved: false });
  if (project.kind === "segmentation") await beginDrawing(turn);
  else if (places()) await beginPlacing(turn);
  if (turn === state.turn) await showCase();
}

// Ends a case, unless there is something to lose and its author wants to stay.
function leave() {
  if (work.unsaved && !confirm("What you drew isn't saved. Leave it?")) return false;
  endDrawing();
  return true;
}

// --- drawing

async function beginDrawing(turn) {
  const names = Object.entries(work.project.values);
  nv.setDrawColormap(colourTable(names));
  $("pen").replaceChildren(...names.map(([name, value]) => element("option", name, { value })));
  nv.setDrawOpacity(Number($("opacity").value));
  nv.setDrawingEnabled(true);
  const begun = (await label(work.whose, turn)) ?? (await beginning(turn));
  if (turn === state.turn) await draw(begun, turn);
  if (turn !== state.turn) return;
  work.unsaved = false;
  takeTool();
}

// Puts a label under the pen, or an empty one.
async function draw(reply, turn) {
  const drawing = reply && await loaded(await reply.blob(), "label.nrrd");
  if (turn !== state.turn) return;
  if (!drawing) nv.createEmptyDrawing();
  else if (!nv.loadDrawing(drawing)) throw new Error("the label lies on another grid than its image");
}

// Returns what one begins with who has drawn nothing yet: a reviewer with what the experts say together.
async function beginning(turn) {
  if (work.whose === "adjudicated") return label("consensus", turn);
  return work.project.model ? suggestion(turn) : null;
}

async function beginPlacing(turn) {
  const begun = (await label(work.whose, turn)) ?? (work.whose === "adjudicated" ? await label("consensus", turn) : null);
  const own = begun ? await begun.json() : [];
  if (turn === state.turn) beginPlaces(work.project, own, changed);
}

function changed() {
  work.edits += 1;
  work.unsaved = true;
}

// Begins anew with what somebody else said.
async function startFrom(whose) {
  if (work.unsaved && !confirm("Replace what you made?")) return;
  const turn = state.turn, reply = await label(whose, turn);
  if (!reply) throw new Refused("that label is no longer to be seen: open the case again");
  const items = places() ? await reply.json() : null;
  if (turn !== state.turn) return;
  if (items) replaceOwn(items);
  else await draw(reply, turn);
  if (turn === state.turn) changed();
}

// Returns the model's answer; where there is none, one starts from nothing.
async function suggestion(turn) {
  try {
    return await label("model", turn);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(`${error.message}: begin with an empty label`, true);
    return null;
  }
}

// Returns a label, or null where there is none; one's own goes on from the version that was seen here.
async function label(whose, turn = state.turn) {
  try {
    const reply = await ask(`${work.path}/labels/${encodeURIComponent(whose)}`, { accept: LABEL[work.project.kind] });
    if (turn !== state.turn) return null;
    const etag = reply.headers.get("ETag");
    if (whose === work.whose) work.etag = etag;
    if (whose === work.whose || whose === "model") work.start = Number(etag.replaceAll('"', ""));
    return reply;
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

function takeTool() {
  const tool = document.querySelector("input[name=tool]:checked").value;
  nv.opts.penSize = Number($("size").value);
  nv.opts.penType = 0;
  nv.setPenValue(tool === "erase" ? 0 : Number($("pen").value), tool === "fill");
  $("pen").disabled = tool === "erase";
}

function endDrawing() {
  for (const id of ["brush", "case"]) $(id).hidden = true;
  if (nv.drawBitmap) nv.closeDrawing();
  nv.setDrawingEnabled(false);
  $("findings").replaceChildren();
  endPlaces();
  Object.assign(work, { path: "", unsaved: false, outlines: new Map() });
}

// --- one case

async function showCase() {
  const turn = state.turn, said = await (await ask(work.path)).json();
  if (turn !== state.turn) return;
  const mine = work.whose === "mine" ? said.mine : said.adjudicated;
  const given = mine && ["submitted", "approved"].includes(mine.status) && work.whose === "mine" && work.project.blinded;
  const comment = mine?.facts.comment ? ` A reviewer says: ${mine.facts.comment}` : "";
  $("guidelines").textContent = said.guidelines;
  $("standing").textContent = `${work.whose === "mine" ? "Your label" : "The decision"}: ${mine?.status ?? "new"}. Case: ${said.state}.${comment}`;
  $("brush").hidden = given || work.project.kind !== "segmentation";
  $("hand-in").hidden = given;
  $("places").hidden = !places();
  $("placing").hidden = given;
  for (const button of $("placed").querySelectorAll("td:last-child button")) button.disabled = given;
  nv.setDrawingEnabled(!$("brush").hidden);
  if (work.project.kind === "findings" && !work.unsaved) await showFindings(turn);
  if (turn !== state.turn) return;
  const shared = ["consensus", "adjudicated"].filter((name) => said[name] && name !== work.whose).map((name) => ({ ...said[name], whose: name }));
  $("others").querySelector("tbody").replaceChildren(...[...said.labels, ...shared].map((other, index) => otherRow(other, index, given)));
  $("others").hidden = !said.labels.length && !shared.length;
  $("agree").hidden = !reviews() || said.state !== "complete";
  $("case").hidden = false;
}

function otherRow(other, index, given) {
  const row = element("tr"), show = element("label"), act = element("td");
  const items = shownOf(other.whose), checked = Boolean(items) || work.outlines.get(other.whose)?.opacity > 0;
  if (items) showOthers(other.whose, items, index); // its row may be another one now
  const box = element("input", "", { type: "checkbox", disabled: work.project.kind === "findings", checked });
  box.addEventListener("change", () => attempt(() => outline(other.whose, index + 1, box.checked)));
  show.append(box, " ", swatch(places() ? colourOf(index) : index + 1), other.whose);
  const first = element("td");
  first.append(show);
  if (reviews() && other.status === "submitted" && !["consensus", "adjudicated"].includes(other.whose)) {
    for (const [word, decision] of [["Approve", "approved"], ["Give back", "rejected"]]) {
      const button = element("button", word, { type: "button" });
      button.addEventListener("click", () => attempt(() => decide(other, decision)));
      act.append(button, " ");
    }
  }
  if (!given && work.project.kind !== "findings") {
    const button = element("button", "Start from it", { type: "button" });
    button.addEventListener("click", () => attempt(() => startFrom(other.whose)));
    act.append(button);
  }
  row.append(first, element("td", other.status), act);
  return row;
}

async function outline(whose, index, on) {
  if (places()) return outlinePlaces(whose, index - 1, on);
  const there = work.outlines.get(whose), turn = state.turn;
  if (there) nv.setOpacity(nv.volumes.indexOf(there), on ? 1 : 0); // one that is removed stays to be seen in 3-D
  if (there || !on) return;
  const reply = await label(whose);
  if (!reply) throw new Refused("that label is no longer to be seen: open the case again");
  const volume = hollow(await loaded(await reply.blob(), "outline.nrrd"));
  if (turn !== state.turn) return;
  nv.addVolume(volume);
  work.outlines.set(whose, volume);
  const names = Object.entries(work.project.values).map(([name, value]) => [`${name} (${whose})`, value]);
  volume.setColormapLabel(colourTable(names, new Set(), index));
  nv.updateGLVolume();
}

async function outlinePlaces(whose, index, on) {
  const turn = state.turn, reply = on ? await label(whose) : null;
  if (on && !reply) throw new Refused("that label is no longer to be seen: open the case again");
  const items = reply && await reply.json();
  if (turn === state.turn) showOthers(whose, items, index);
}

async function showFindings(turn) {
  const reply = await label(work.whose, turn);
  const said = reply ? await reply.json() : {};
  $("findings").replaceChildren(...Object.entries(work.project.names).map(([name, choices]) => {
    const row = element("label", `${name} `), select = element("select", "", { name });
    select.append(element("option", "choose …", { value: "" }), ...choices.map((choice) => element("option", choice, { value: choice })));
    select.value = said[name] ?? "";
    select.addEventListener("change", changed);
    row.append(select);
    return row;
  }));
}

// --- handing in

async function content() {
  if (work.project.kind === "segmentation") return { body: await nv.saveImage({ filename: "", isSaveDrawing: true }) };
  if (places()) return { json: placed() };
  const chosen = [...$("findings").querySelectorAll("select")].map((select) => [select.name, select.value]);
  return { json: Object.fromEntries(chosen.filter(([, choice]) => choice)) };
}

async function handIn(status) {
  const seconds = work.seconds + (work.since ? (performance.now() - work.since) / 1000 : 0);
  const facts = new URLSearchParams({ status, seconds: seconds.toFixed(1), start: work.start, edits: work.edits, tool: "reading room" });
  const place = `${work.path}/labels/${work.whose}`, { edits } = work, { turn } = state, sent = await content();
  const put = () => ask(`${place}?${facts}`, { method: "PUT", headers: precondition(), ...sent });
  let reply;
  try {
    reply = await put();
  } catch (error) {
    if (error.status !== 412 || !confirm("Somebody changed this label since you opened it. Put yours after theirs? Theirs stays stored.")) throw error;
    work.etag = (await ask(place, { accept: LABEL[work.project.kind] })).headers.get("ETag");
    reply = await put();
  }
  if (turn !== state.turn) return listCases(); // another case is open by now
  const since = work.edits - edits; // strokes while it was on its way
  Object.assign(work, { etag: reply.headers.get("ETag"), seconds: 0, edits: since, since: performance.now(), unsaved: since > 0 });
  await listCases();
  await showCase();
  say(status === "draft" ? "The draft is kept." : "The label is submitted.");
}

async function decide(other, decision) {
  const comment = decision === "rejected" ? prompt("What is to be changed?") : "";
  if (comment === null) return;
  await ask(`${work.path}/labels/${encodeURIComponent(other.whose)}/review`, { json: { decision, comment }, headers: { "If-Match": `"${other.version}"` } });
  await listCases();
  await showCase();
  say(`The label of ${other.whose} is ${decision}.`);
}

async function agree() {
  const made = await (await ask(`${work.path}/consensus`, { method: "POST" })).json();
  await listCases();
  await showCase();
  say(`The experts agree by ${made.facts.agreement.toFixed(2)}${made.facts.disputed ? ": too little, decide" : ""}.`);
}

// Counts the time in which the page is looked at.
function watchTime() {
  if (!work.path) return;
  if (document.hidden && work.since) {
    work.seconds += (performance.now() - work.since) / 1000;
    work.since = 0;
  } else if (!document.hidden) work.since = performance.now();
}

walkable($("cases"), (item) => attempt(() => openCase(item)));
for (const input of [$("pen"), $("size"), ...document.querySelectorAll("input[name=tool]")]) input.addEventListener("change", takeTool);
$("undo").addEventListener("click", () => nv.drawUndo());
$("opacity").addEventListener("input", () => { if (nv.drawBitmap) nv.setDrawOpacity(Number($("opacity").value)); });
$("draft").addEventListener("click", () => attempt(() => handIn("draft")));
$("submit").addEventListener("click", () => attempt(() => handIn("submitted")));
$("agree").addEventListener("click", () => attempt(agree));
document.addEventListener("leaving", (event) => { if (!leave()) event.preventDefault(); });
addEventListener("beforeunload", (event) => { if (work.unsaved) event.preventDefault(); });
document.addEventListener("visibilitychange", watchTime);
nv.onDrawingChanged = (action) => {
  if (action !== "draw" && action !== "undo") return;
  changed();
};
