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
  if (!TELLS[model?.task]) throw new Error("choose a segmentation or a progression model: these tell change over time");
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
  const { views, rows } = TELLS[model.task];
  await show(views(history), form, model, turn);
  if (turn !== state.turn) return;
  tell(rows(history), history.responses?.at(-1)?.category);
  URL.revokeObjectURL($("report").href);
  Object.assign($("report"), { href: URL.createObjectURL(form.get("report")), hidden: false });
  say(`${item.firstChild.textContent}: ${history.time_points.length} time points over ${history.time_points.at(-1).years.toFixed(2)} years.`);
}

// Lays views side by side, the latest so many; moving in one moves in all.
async function show(views, form, model, turn) {
  const names = Object.entries(model.targets);
  $("canvas").hidden = true;
  $("drop").hidden = true;
  $("timepoints").hidden = false;
  for (const [number, view] of views.slice(-MOST).entries()) {
    const figure = element("figure"), canvas = element("canvas");
    canvas.setAttribute("aria-label", `View ${number + 1}`);
    figure.append(canvas, element("figcaption", view.caption));
    $("timepoints").append(figure);
    const one = viewer();
    shown.viewers.push(one);
    await one.attachToCanvas(canvas);
    one.addVolume(await loaded(form.get(view.image), "image.nrrd"));
    const mask = await loaded(form.get(view.mask), "mask.nrrd", { opacity: Number($("opacity").value) });
    one.addVolume(mask);
    mask.setColormapLabel(colourTable(names));
    one.updateGLVolume();
    one.setSliceType(Number($("planes").value) === 3 ? 0 : Number($("planes").value));
    one.onLocationChange = (place) => { $("place").textContent = place.string ?? ""; };
    if (turn !== state.turn) return;
  }
  for (const one of shown.viewers) one.broadcastTo(shown.viewers.filter((other) => other !== one), { "2d": true, "3d": true });
}

const percentage = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(1)} %`);
const yearsOf = (point) => `${point.years.toFixed(2)} years`;

// By a segmentation: each time point with its mask, and what became of each lesion and structure.
const measured = {
  views: (history) => history.time_points.map((point, at) => ({ image: `image-${at + 1}`, mask: `mask-${at + 1}`, caption: yearsOf(point) })),
  rows: (history) => [
    ...history.lesions.map((lesion) => [`${lesion.label} ${lesion.number}`, lesion.fates.at(-1), percentage(lesion.changes.at(-1)?.percent)]),
    ...history.structures.map((one) => [one.label, "", percentage(one.changes.at(-1)?.percent)]),
  ],
};

// By a model of progression: the last two scans with what became of each voxel, and each label's most probable class.
const learned = {
  views: (history) => {
    const step = Object.keys(history.courses).at(-1);
    return ["earlier", "later"].map((side, at) => ({ image: `${side}-${step}`, mask: `change-${step}`, caption: yearsOf(history.time_points.at(at - 2)) }));
  },
  rows: (history) => Object.entries(Object.values(history.courses).at(-1)).map(([label, course]) => {
    const [kind, probability] = Object.entries(course.probabilities).sort(([, one], [, other]) => other - one)[0];
    return [label, `${kind} (${(100 * probability).toFixed(0)} %)`, percentage(100 * Math.expm1(course.growth))];
  }),
};

const TELLS = { segmentation: measured, progression: learned };

function tell(rows, category) {
  $("changes").querySelector("tbody").replaceChildren(...rows.map(([name, fate, percent]) => {
    const row = element("tr");
    row.append(element("td", name), element("td", fate), element("td", percent, { className: "number" }));
    return row;
  }));
  $("changes").hidden = false;
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
