// Boxes and points: put where the crosshair is, listed, drawn over the image, one's own and others'.
import { $, element } from "/pages/shared.js";
import { colourTable, goTo, nv } from "/pages/viewer.js";

const here = { kind: "", names: [], own: [], corner: null, others: new Map(), changed: () => {} };
const DOT = 1; // voxels about a point that are drawn

// --- voxels of the image as it is stored, and NiiVue's

const affine = () => nv.volumes[0].hdr.affine.slice(0, 3);
const across = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
const times = ([a, b, c], [d, e, f]) => a * d + b * e + c * f;
const toMm = (voxel) => affine().map((row) => times(row, voxel) + row[3]);

function toVoxel(mm) {
  const [i, j, k] = [0, 1, 2].map((column) => affine().map((row) => row[column])), off = affine().map((row, axis) => mm[axis] - row[3]);
  const whole = times(i, across(j, k));
  return [times(off, across(j, k)) / whole, times(i, across(off, k)) / whole, times(i, across(j, off)) / whole];
}

// Returns the voxel under the crosshair, within the image.
function crosshair() {
  const sides = nv.volumes[0].hdr.dims.slice(1, 4);
  const [x, y, z] = nv.frac2mm(nv.scene.crosshairPos, 0, true);
  return toVoxel([x, y, z]).map((value, axis) => Math.min(Math.max(value, 0), sides[axis] - 1));
}

const ends = (item) => (item.voxel ? [item.voxel, item.voxel] : item.voxels);
const middle = (item) => ends(item)[0].map((low, axis) => (low + ends(item)[1][axis]) / 2);

// --- drawing

function paint(item, value) {
  const [low, high] = ends(item), dims = nv.back.dims.slice(1, 4);
  const inset = item.voxel ? -DOT : 0.5; // a box's faces lie half a voxel beyond the voxels that it holds
  const [first, last] = [low.map((at) => at + inset), high.map((at) => at - inset)].map((corner) => [...nv.frac2vox(nv.mm2frac(toMm(corner), 0, true))]);
  const from = first.map((at, axis) => Math.max(0, Math.round(Math.min(at, last[axis]))));
  const to = first.map((at, axis) => Math.min(dims[axis] - 1, Math.round(Math.max(at, last[axis]))));
  const hollow = from.map((at, axis) => to[axis] - at > 1), solid = item.voxel || !hollow.includes(true); // what is under it stays to be seen
  const isFace = (at, axis) => hollow[axis] && (at === from[axis] || at === to[axis]);
  for (let k = from[2]; k <= to[2]; k += 1) {
    for (let j = from[1]; j <= to[1]; j += 1) {
      const row = dims[0] * (j + dims[1] * k);
      if (solid || isFace(j, 1) || isFace(k, 2)) nv.drawBitmap.fill(value, row + from[0], row + to[0] + 1);
      else if (hollow[0]) for (const i of [from[0], to[0]]) nv.drawBitmap[row + i] = value;
    }
  }
}

function redraw() {
  if (!nv.drawBitmap) nv.createEmptyDrawing();
  nv.drawBitmap.fill(0);
  const others = [...here.others.values()], rows = Math.max(0, ...others.map(({ index }) => index + 1));
  others.forEach(({ items, index }) => items.forEach((item) => paint(item, colourOf(index) + 1)));
  here.own.forEach((item) => paint(item, here.names.indexOf(item.label) + 1));
  const known = [...here.names, ...Array.from({ length: rows }, (_, index) => `other ${index + 1}`)];
  nv.setDrawColormap(colourTable(known.map((name, index) => [name, index + 1])));
  nv.refreshDrawing(true);
}

// Returns the number of the colour of somebody else's, by the number of their row.
export const colourOf = (index) => here.names.length + index;

// --- the list

function list() {
  $("placed").querySelector("tbody").replaceChildren(...here.own.map((item, index) => {
    const row = element("tr"), where = element("td"), act = element("td");
    const go = element("button", `${item.label} ${index + 1}`, { type: "button", title: "Go there" });
    go.addEventListener("click", () => goTo(toMm(middle(item))));
    const remove = element("button", "Remove", { type: "button" });
    remove.addEventListener("click", () => { here.own.splice(index, 1); update(); });
    where.append(go);
    act.append(remove);
    row.append(where, element("td", middle(item).map((value) => value.toFixed(0)).join(", ")), act);
    return row;
  }));
  $("place-here").textContent = here.kind === "points" ? "Add where the crosshair is" : here.corner ? "Opposite corner is here" : "First corner is here";
}

function update() {
  here.changed();
  list();
  redraw();
}

function add() {
  const label = $("place-label").value, voxel = crosshair();
  if (here.kind === "points") here.own.push({ label, voxel: voxel.map((value) => Number(value.toFixed(2))) });
  else if (!here.corner) here.corner = voxel;
  else {
    const both = voxel.map((value, axis) => [Math.round(Math.min(value, here.corner[axis])), Math.round(Math.max(value, here.corner[axis]))]);
    here.own.push({ label, voxels: [both.map(([low]) => low - 0.5), both.map(([, high]) => high + 0.5)] });
    here.corner = null;
  }
  update();
}

// Shows one's own; what is done to them is told.
export function beginPlaces(project, own, changed) {
  Object.assign(here, { kind: project.kind, names: Object.keys(project.names), own: [...own], corner: null, others: new Map(), changed });
  $("place-label").replaceChildren(...here.names.map((name) => element("option", name, { value: name })));
  list();
  redraw();
}

export const placed = () => here.own;

// Begins anew with what somebody else said.
export function replaceOwn(items) {
  Object.assign(here, { own: [...items], corner: null });
  list();
  redraw();
}

// Shows somebody else's in the colour of their row, or hides them where there are none.
export function showOthers(whose, items, index) {
  if (items) here.others.set(whose, { items, index });
  else here.others.delete(whose);
  redraw();
}

export const shownOf = (whose) => here.others.get(whose)?.items;

export function endPlaces() {
  Object.assign(here, { kind: "", own: [], corner: null, others: new Map() });
  $("places").hidden = true;
}

$("place-here").addEventListener("click", add);
