// Change over time: a patient's scans side by side in one space, scrolled together, with what became of each lesion.
import { $, ask, attempt, element, say, state, walkable } from "/pages/shared.js";
import { colourTable, loaded, mayLeave, viewer } from "/pages/viewer.js";

const MOST = 4; // viewers at once: each has a graphics context of its own
const shown = { viewers: [], model: () => null };

export async function enterPatients(chosen) {
  shown.model = chosen;
  const { subjects } = await (await ask("/v1/subjects")).json();
  $("patients").hidden = !subjects.length;
  $("subjects").replaceChildren(...subjects.map((subject) => {
    const item = element("li", "", { id: `subject-${subject.subject}`, role: "option" });
    item.dataset.images = JSON.stringify(subject.images.map((image) => image.image));
    item.append(element("span", subject.subject), element("small", `${subject.images.length} scans`));
    return item;
  }));
}

async function compare(item) {
  const model = shown.model();
  if (model?.task !== "segmentation") throw new Error("choose a segmentation model: change is measured on what it finds");
  if (!mayLeave()) return;
  const turn = ++state.turn;
  state.image = null;
  document.dispatchEvent(new Event("opening"));
  say(`${model.model} compares ${item.firstChild.textContent} …`);
  const images = JSON.parse(item.dataset.images), apart = Number($("apart").value);
  const days = apart ? { days: images.map((_, at) => at * apart) } : {};
  const reply = await ask(`/v1/track/${model.model}`, { json: { scans: images.map((image) => ({ image })), ...days }, accept: "multipart/form-data" });
  const form = await reply.formData();
  if (turn !== state.turn) return;
  const history = JSON.parse(await form.get("result").text?.() ?? form.get("result"));
  await show(history, form, model, turn);
  if (turn !== state.turn) return;
  tell(history);
  URL.revokeObjectURL($("report").href);
  Object.assign($("report"), { href: URL.createObjectURL(form.get("report")), hidden: false });
  say(`${item.firstChild.textContent}: ${history.time_points.length} time points over ${history.time_points.at(-1).years.toFixed(2)} years.`);
}

// Lays the latest time points side by side; moving in one moves in all.
async function show(history, form, model, turn) {
  const first = Math.max(0, history.time_points.length - MOST), names = Object.entries(model.targets);
  $("canvas").hidden = true;
  $("drop").hidden = true;
  $("timepoints").hidden = false;
  for (let at = first; at < history.time_points.length; at += 1) {
    const figure = element("figure"), canvas = element("canvas");
    canvas.setAttribute("aria-label", `Time point ${at + 1}`);
    figure.append(canvas, element("figcaption", `${history.time_points[at].years.toFixed(2)} years`));
    $("timepoints").append(figure);
    const one = viewer();
    shown.viewers.push(one);
    await one.attachToCanvas(canvas);
    one.addVolume(await loaded(form.get(`image-${at + 1}`), "image.nrrd"));
    const mask = await loaded(form.get(`mask-${at + 1}`), "mask.nrrd", { opacity: Number($("opacity").value) });
    one.addVolume(mask);
    mask.setColormapLabel(colourTable(names));
    one.updateGLVolume();
    one.setSliceType(Number($("planes").value) === 3 ? 0 : Number($("planes").value));
    one.onLocationChange = (place) => { $("place").textContent = place.string ?? ""; };
    if (turn !== state.turn) return;
  }
  for (const one of shown.viewers) one.broadcastTo(shown.viewers.filter((other) => other !== one), { "2d": true, "3d": true });
}

function tell(history) {
  const change = (one) => (one?.percent === null || one?.percent === undefined ? "–" : `${one.percent > 0 ? "+" : ""}${one.percent.toFixed(1)} %`);
  const rows = [
    ...history.lesions.map((lesion) => [`${lesion.label} ${lesion.number}`, lesion.fates.at(-1), change(lesion.changes.at(-1))]),
    ...history.structures.map((one) => [one.label, "", change(one.changes.at(-1))]),
  ];
  $("changes").querySelector("tbody").replaceChildren(...rows.map(([name, fate, percent]) => {
    const row = element("tr");
    row.append(element("td", name), element("td", fate), element("td", percent, { className: "number" }));
    return row;
  }));
  $("changes").hidden = false;
  const category = history.responses.at(-1)?.category;
  $("response").textContent = category ? `RECIST 1.1: ${category}` : "";
}

function leave() {
  $("canvas").hidden = false;
  for (const id of ["timepoints", "changes", "report"]) $(id).hidden = true;
  $("response").textContent = "";
  for (const viewer of shown.viewers) viewer.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  shown.viewers = [];
  $("timepoints").replaceChildren();
}

walkable($("subjects"), (item) => attempt(() => compare(item)));
document.addEventListener("opening", leave);
$("opacity").addEventListener("input", () => { for (const viewer of shown.viewers) viewer.setOpacity(1, Number($("opacity").value)); });
$("planes").addEventListener("change", () => { for (const viewer of shown.viewers) viewer.setSliceType(Number($("planes").value)); });
