// The viewer: one image, and what lies over it. Other parts of the page may refuse "leaving", and are told by "opening" and "opened".
import { Niivue, NVImage } from "/pages/vendor/niivue.js";
import { $, COLOURS, ask, say, state } from "/pages/shared.js";

export const viewer = (options) => new Niivue({ isRadiologicalConvention: true, backColor: [0, 0, 0, 1], crosshairWidth: 1, dragAndDropEnabled: false, loadingText: "", ...options });
export const nv = viewer({ show3Dcrosshair: true, crosshairWidthUnit: "mm" });

export async function loaded(blob, name, options = {}) {
  const url = URL.createObjectURL(blob);
  try {
    return await NVImage.loadFromUrl({ url, name, ...options });
  } finally {
    URL.revokeObjectURL(url);
  }
}

// Asks whether what is shown may go.
export const mayLeave = () => document.dispatchEvent(new Event("leaving", { cancelable: true }));

// Returns whether the image is open: false where another one was asked for meanwhile, or what is shown has to stay.
export async function open(image, title) {
  if (!mayLeave()) return false;
  const turn = ++state.turn; // whatever is still on its way belongs to another image from here on
  say(`Opening ${title} …`);
  state.image = null;
  document.dispatchEvent(new Event("opening"));
  const reply = await ask("/v1/view", image.file ? { body: image.file } : { json: image });
  const volume = await loaded(await reply.blob(), "image.nrrd");
  if (turn !== state.turn) return false;
  while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
  nv.addVolume(volume);
  state.image = image;
  $("drop").hidden = true;
  document.dispatchEvent(new Event("opened"));
  say(`${title} is open.`);
  return true;
}

// Puts the crosshair at a place in RAS mm, NiiVue's world.
export function goTo(mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
  nv.drawScene();
}

export function clearOverlays() {
  while (nv.volumes.length > 1) nv.removeVolume(nv.volumes.at(-1));
}

// Leaves of a label map the voxels that touch another label through a face: what is under it stays to be seen.
export function hollow(volume) {
  const [, ni, nj, nk] = volume.hdr.dims, all = volume.img, kept = new all.constructor(all.length);
  const steps = [[1, ni], [ni, nj], [ni * nj, nk]];
  for (let at = 0; at < all.length; at += 1) {
    if (!all[at]) continue;
    const inside = steps.every(([step, count]) => {
      const place = Math.floor(at / step) % count;
      return count === 1 || (place > 0 && place < count - 1 && all[at - step] === all[at] && all[at + step] === all[at]);
    });
    if (!inside) kept[at] = all[at];
  }
  volume.img = kept;
  return volume;
}

// Returns NiiVue's table of colours for names with values; those that are hidden have none.
export function colourTable(names, hidden = new Set(), from = 0) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  names.forEach(([name, value], index) => {
    const [red, green, blue] = COLOURS[(from + index) % COLOURS.length];
    table.R.push(red); table.G.push(green); table.B.push(blue); table.I.push(value); table.labels.push(name);
    table.A.push(hidden.has(name) ? 0 : 255);
  });
  return table;
}

export function swatch(index) {
  const made = Object.assign(document.createElement("span"), { className: "swatch" });
  made.style.background = `rgb(${COLOURS[index % COLOURS.length].join(" ")})`;
  return made;
}

function move(event) {
  const step = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], PageUp: [0, 0, 5], PageDown: [0, 0, -5] }[event.key];
  if (!step || !nv.volumes.length) return;
  event.preventDefault();
  nv.moveCrosshairInVox(...step);
}

export async function begin() {
  await nv.attachToCanvas($("canvas"));
  nv.setSliceType(nv.sliceTypeMultiplanar);
  $("opacity").addEventListener("input", (event) => { if (nv.volumes[1]) nv.setOpacity(1, Number(event.target.value)); });
  $("planes").addEventListener("change", (event) => nv.setSliceType(Number(event.target.value)));
  $("canvas").addEventListener("keydown", move);
  nv.onLocationChange = (place) => { $("place").textContent = place.string ?? ""; };
}
