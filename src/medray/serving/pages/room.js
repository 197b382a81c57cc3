// The reading room: choose an image, run a model on it, look at both. Talks to this server alone, by the same routes as anybody.
import { $, ask, attempt, element, say, state, walkable } from "/pages/shared.js";
import { begin, clearOverlays, colourTable, goTo, loaded, nv, open, swatch } from "/pages/viewer.js";
import { enterProjects } from "/pages/annotate.js";
import { enterPatients } from "/pages/compare.js";

const COMPARES = ["segmentation", "progression"]; // what tells change over time
const ROUTES = { segmentation: "segment", diagnosis: "diagnose", detection: "detect" };
const PAGE = 50;
const here = { models: [], after: "", hidden: new Set(), lookup: null };

// --- images

async function openFile(file) {
  if (file) await open({ file }, "The file");
}

async function listImages() {
  const reply = await ask(`/v1/images?most=${PAGE}&after=${encodeURIComponent(here.after)}`);
  const { images } = await reply.json();
  for (const image of images) {
    const item = element("li", "", { id: `image-${image.image}`, role: "option" });
    item.dataset.image = image.image;
    item.append(element("span", image.subject), element("small", `${image.modality} ${image.shape.join("×")}${image.tags.length ? ` · ${image.tags.join(", ")}` : ""}`));
    $("images").append(item);
  }
  here.after = images.at(-1)?.image ?? here.after;
  $("more").hidden = images.length < PAGE;
  $("worklist").hidden = $("images").children.length === 0;
}

// --- models

async function listModels() {
  const { models } = await (await ask("/v1/models")).json();
  here.models = models.filter((model) => ROUTES[model.task] || COMPARES.includes(model.task));
  $("model").replaceChildren(...here.models.map((model) => element("option", `${model.model} · ${model.task}`, { value: model.model })));
  describe();
}

const chosen = () => here.models.find((model) => model.model === $("model").value);

function describe() {
  const model = chosen();
  if (!model) return;
  const scores = Object.entries(model.scores).map(([split, found]) => [`scores, ${split}`, Object.entries(found).map(([label, score]) => `${label} ${score.toFixed(3)}`).join(", ")]);
  const facts = [["version", model.model], ["aliases", model.aliases.join(", ") || "none"], ["task", model.task], ["tells apart", Object.keys(model.targets).join(", ")],
    ["modalities", model.modalities.join(", ")], ["intended use", model.intended_use], ...scores];
  $("card").querySelector("dl").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  ready();
}

const ready = () => { $("run").disabled = !(state.image && ROUTES[chosen()?.task]); };

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
  clearOverlays();
  here.hidden.clear();
  here.lookup = null;
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
  here.lookup = () => {
    nv.volumes[1].setColormapLabel(colourTable(names, here.hidden));
    nv.updateGLVolume();
  };
  here.lookup();
  table(["label", "ml"], names.map(([name], index) => {
    const label = element("label");
    const box = element("input", "", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      here.hidden[box.checked ? "delete" : "add"](name);
      here.lookup();
    });
    label.append(box, " ", swatch(index), name);
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
      goTo([-x, -y, z]);
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
  here.after = "";
  await listImages();
  await enterProjects();
  await enterPatients(chosen);
  $("login").hidden = true;
  $("who").hidden = !state.token;
  $("who").querySelector("span").textContent = state.token ? "Logged in" : "";
}

function listen() {
  $("file").addEventListener("change", (event) => attempt(() => openFile(event.target.files[0])));
  $("view").addEventListener("dragover", (event) => event.preventDefault());
  $("view").addEventListener("drop", (event) => { event.preventDefault(); attempt(() => openFile(event.dataTransfer.files[0])); });
  walkable($("images"), (item) => attempt(() => open({ image: item.dataset.image }, `Image of ${item.firstChild.textContent}`)));
  document.addEventListener("opening", () => { clearResult(); ready(); });
  document.addEventListener("opened", ready);
  $("more").addEventListener("click", () => attempt(listImages));
  $("model").addEventListener("change", describe);
  $("run").addEventListener("click", () => attempt(run));
  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = $("token").value.trim();
    sessionStorage.setItem("token", state.token);
    attempt(async () => { await enter(); say("Open an image, choose a model, and run it."); });
  });
  $("logout").addEventListener("click", () => { sessionStorage.removeItem("token"); location.reload(); });
}

await begin();
listen();
await attempt(enter);
