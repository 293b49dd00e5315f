// Moves and zooms the picture of the task graph, shows what a box is connected with, and opens groups without leaving
// the page.

import { adopt } from "./live.js";

const place = document.getElementById("graph-picture");
let view = null; // [x, y, width, height]; null: all of it

const svg = () => document.getElementById("graph");
const whole = () => svg().dataset.whole.split(" ").map(Number);

function prepare() {
  const picture = svg();
  if (!picture) return;
  const box = picture.getAttribute("viewBox");
  picture.dataset.whole = box;
  if (view) show();
}

function show() {
  svg().setAttribute("viewBox", (view ?? whole()).map((n) => Math.round(n * 10) / 10).join(" "));
}

function zoom(factor, at) {
  const [x, y, width, height] = view ?? whole();
  const [, , all] = whole();
  const wide = Math.min(Math.max(width / factor, 240), all * 4);
  const real = width / wide;
  const [cx, cy] = at ?? [x + width / 2, y + height / 2];
  view = [cx - (cx - x) / real, cy - (cy - y) / real, wide, height / real];
  show();
}

function move(dx, dy) {
  const [x, y, width, height] = view ?? whole();
  view = [x + dx * width, y + dy * height, width, height];
  show();
}

function fit() {
  view = null;
  show();
}

function pointOf(event) {
  const matrix = svg().getScreenCTM().inverse();
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  return [point.x, point.y];
}

// --- mouse, touch and keys

let held = null;
place.addEventListener("pointerdown", (event) => {
  if (event.button === 0 && event.target.closest("#graph")) held = { at: pointOf(event), moved: false, from: [event.clientX, event.clientY] };
});
addEventListener("pointermove", (event) => {
  if (!held) return;
  if (!held.moved && Math.hypot(event.clientX - held.from[0], event.clientY - held.from[1]) < 5) return;
  held.moved = true;
  svg().classList.add("moving");
  const [x, y] = pointOf(event);
  const [vx, vy, width, height] = view ?? whole();
  view = [vx - (x - held.at[0]), vy - (y - held.at[1]), width, height];
  show();
});
addEventListener("pointerup", () => {
  svg()?.classList.remove("moving");
  // After the click that follows.
  setTimeout(() => { held = null; });
});
place.addEventListener("dragstart", (event) => event.preventDefault());
place.addEventListener("wheel", (event) => {
  // A page that is scrolled past must not be caught: with Ctrl, as for zooming elsewhere, or when the picture has the focus.
  if (!event.target.closest("#graph") || !(event.ctrlKey || svg().contains(document.activeElement))) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, pointOf(event));
}, { passive: false });
place.addEventListener("keydown", (event) => {
  if (!event.target.closest("#graph") || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = {
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: fit,
    ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0), ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
  }[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});
document.addEventListener("click", (event) => {
  const which = event.target.closest("[data-graph-zoom]")?.dataset.graphZoom;
  if (which && svg()) ({ in: () => zoom(1.4), out: () => zoom(1 / 1.4), fit })[which]();
});

// --- what a box is connected with

function choose(node) {
  const picture = svg();
  if (!picture) return;
  for (const element of picture.querySelectorAll(".near")) element.classList.remove("near");
  picture.classList.toggle("chosen", Boolean(node));
  if (!node) return;
  const key = node.dataset.key;
  node.classList.add("near");
  for (const edge of picture.querySelectorAll(".edges path")) {
    if (edge.dataset.s !== key && edge.dataset.t !== key) continue;
    edge.classList.add("near");
    const other = edge.dataset.s === key ? edge.dataset.t : edge.dataset.s;
    document.getElementById(`n-${other}`)?.classList.add("near");
  }
}
for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  place.addEventListener(on, (event) => choose(event.target.closest(".node")));
  place.addEventListener(off, () => choose(null));
}

// --- groups

place.addEventListener("click", async (event) => {
  const node = event.target.closest("a.node");
  if (held?.moved) {
    event.preventDefault();
    return;
  }
  if (!node?.dataset.stay || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const href = node.getAttribute("href");
  let answer;
  try {
    answer = await fetch(href, { cache: "no-store", signal: AbortSignal.timeout(30000) });
  } catch {
    location.assign(href);
    return;
  }
  if (!answer.ok) {
    location.assign(href);
    return;
  }
  history.replaceState(null, "", href);
  view = null;
  adopt(await answer.text());
});

place.addEventListener("replaced", prepare);
prepare();
