// Keeps a page up to date without reloading it: asks for it again with the ETag that it has, and puts what has changed in
// the place of what was there. The server says "not modified" for as long as nothing was written to the database.

import { drawCharts, refreshCharts } from "./charts.js";

const pulse = document.getElementById("pulse");
let etag = document.querySelector("meta[name=etag]")?.content;
let timer = 0;
let lostSince = null;
let adopted = 0;
const sources = new Map();

// --- times: in the browser's own zone; what goes on ticks

const period = () => 1000 * Number(document.body.dataset.lookAgain);
const two = (n) => String(n).padStart(2, "0");

export function localTime(seconds) {
  const d = new Date(seconds * 1000);
  const day = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return `${day} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [m, h, d] = [Math.floor(whole / 60), Math.floor(whole / 3600), Math.floor(whole / 86400)];
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${m} min ${two(whole % 60)} s`;
  return whole < 86400 ? `${h} h ${two(m % 60)} min` : `${d} d ${two(h % 24)} h`;
}

function showTimes(root) {
  for (const element of root.querySelectorAll("time[data-at]")) {
    element.title = element.dateTime;
    element.textContent = localTime(Number(element.dataset.at));
  }
}

function tick() {
  for (const element of document.querySelectorAll("[data-since]")) {
    element.textContent = span(Date.now() / 1000 - Number(element.dataset.since));
  }
}

// --- what is live

function remember() {
  for (const element of document.querySelectorAll("[data-live]")) sources.set(element.id, element.innerHTML);
}

function replace(element, html) {
  const open = [...element.querySelectorAll("details[open][id]")].map((d) => d.id);
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const where = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.getAttribute("href"));
  const scrolled = [...element.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
  element.innerHTML = html;
  for (const id of open) element.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  element.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = scrolled[i] ?? 0; });
  if (where) {
    const again = where.startsWith("#") ? element.querySelector(where) : element.querySelector(`[href="${CSS.escape(where)}"]`);
    again?.focus({ preventScroll: true });
  }
  showTimes(element);
  element.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
}

/** Put another page of the same kind in the place of this one's live parts. */
export function adopt(text) {
  adopted += 1;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  etag = fresh.querySelector("meta[name=etag]")?.content;
  document.title = fresh.title;
  for (const element of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(element.id);
    if (other && sources.get(element.id) !== other.innerHTML) {
      sources.set(element.id, other.innerHTML);
      replace(element, other.innerHTML);
    }
  }
  document.body.dataset.lookAgain = fresh.body.dataset.lookAgain;
  document.body.toggleAttribute("data-goes-on", fresh.body.hasAttribute("data-goes-on"));
  // Parts of a page come and go: the first block, the first sample. Then it is another page.
  const ids = (root) => [...root.querySelectorAll("[data-live], [data-chart]")].map((e) => e.id).join();
  if (ids(document) !== ids(fresh)) location.reload();
  tick();
}

async function look() {
  timer = 0;
  const began = performance.now();
  const before = adopted;
  try {
    const headers = etag ? { "If-None-Match": `"${etag}"` } : {};
    const answer = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(30000) });
    if (answer.status === 200) {
      const text = await answer.text();
      // Another page may have been put here meanwhile: a group of the graph was opened.
      if (before === adopted) adopt(text);
      await refreshCharts();
    } else if (answer.status !== 304) {
      throw new Error(`answer ${answer.status}`);
    }
    lostSince = null;
  } catch {
    lostSince ??= Date.now() / 1000;
  }
  show();
  // A page that takes long to make is not asked for all the time.
  again(Math.max(period(), 4 * (performance.now() - began)));
}

function again(delay) {
  if (!timer && !document.hidden) timer = setTimeout(look, delay);
}

function show() {
  const live = document.body.hasAttribute("data-goes-on");
  pulse.className = lostSince ? "pulse off" : live ? "pulse on" : "pulse";
  const text = lostSince ? `no answer since ${localTime(lostSince).slice(11)}` : live ? "live" : "";
  if (pulse.textContent !== text) pulse.textContent = text;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    timer = 0;
  } else {
    again(0);
  }
});

remember();
showTimes(document);
tick();
show();
setInterval(tick, 1000);
drawCharts();
again(period());

// --- tips: for all that has one, on hover and on focus

const tip = document.getElementById("tip");

function showTip(target) {
  const box = target.getBoundingClientRect();
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 8);
  const below = box.bottom + 8 + size.height < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(8, below ? box.bottom + 8 : box.top - size.height - 8)}px`;
}

for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(on, (event) => {
    const target = event.target.closest?.("[data-tip]");
    if (target) showTip(target);
  });
  document.addEventListener(off, (event) => {
    if (event.target.closest?.("[data-tip]")) tip.hidden = true;
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
});
document.addEventListener("replaced", () => { tip.hidden = true; });
