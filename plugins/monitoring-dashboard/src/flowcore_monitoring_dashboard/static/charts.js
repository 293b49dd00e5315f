// Draws the charts of a page with plotly.js from the data that the server makes of the database. Every chart has its words
// (aria-label), and a table of the same facts.

const drawn = new Map();
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const colour = (name) => css(name) || css("others");
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const two = (n) => String(n).padStart(2, "0");

// plotly.js knows no time zones: it gets the browser's own time as if that were the world's.
function stamp(seconds) {
  const d = new Date(seconds * 1000);
  const day = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return `${day} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}
const secondsOf = (text) => new Date(String(text).replace(" ", "T")).getTime() / 1000;

function layout(chart) {
  const axis = {
    gridcolor: css("line"), zerolinecolor: css("line"), linecolor: css("line"), tickfont: { color: css("muted"), size: 12 },
    automargin: true,
  };
  return {
    margin: { l: 52, r: 14, t: 8, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: css("text"), size: 12 },
    hoverlabel: { bgcolor: css("text"), bordercolor: css("text"), font: { color: css("bg"), size: 12 }, align: "left" },
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { color: css("text"), size: 12 }, itemclick: "toggle" },
    xaxis: { ...axis, type: "date" }, yaxis: { ...axis, fixedrange: true },
    dragmode: "zoom", hovermode: "closest", showlegend: true,
  };
}

// --- kinds of charts: each returns traces and changes the layout

const kinds = {
  series(chart, look) {
    const x = chart.times.map(stamp);
    look.yaxis.rangemode = "tozero";
    look.hovermode = "x unified";
    look.hoverlabel = { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("text"), size: 12 } };
    look.showlegend = chart.series.length > 1;
    const [divisor, unit] = chart.unit === "bytes" ? binary(chart) : [1, ""];
    if (unit) look.yaxis.ticksuffix = ` ${unit}`;
    return chart.series.map((s) => ({
      type: "scatter", mode: "lines", name: escaped(s.name), x: s.times ? s.times.map(stamp) : x, y: s.values.map((v) => (v === null ? null : v / divisor)),
      line: { color: colour(s.colour), width: chart.stacked ? 1 : 1.8, shape: s.shape ?? "hv" },
      ...(chart.stacked ? { stackgroup: "all", fillcolor: faint(colour(s.colour)) } : {}),
      hovertemplate: `%{y:.2f} ${unit}`, ...(s.times ? { mode: "lines+markers", marker: { size: 5, color: colour(s.colour) } } : {}),
    }));
  },

  bars(chart, look) {
    const rows = chart.lanes.length;
    look.barmode = "overlay";
    look.bargap = rows > 100 ? 0 : 0.25;
    look.xaxis.range = [stamp(chart.begin), stamp(chart.end)];
    look.yaxis = {
      ...look.yaxis, type: "linear", range: [Math.max(rows, 3) - 0.5, -0.5], showgrid: false, zeroline: false,
      showticklabels: chart.named, tickmode: "array", tickvals: chart.lanes.map((_, i) => i),
      ticktext: chart.lanes.map(escaped),
    };
    if (!chart.named) look.margin.l = 14;
    const traces = new Map();
    for (const bar of chart.bars) {
      const key = `${bar.colour} ${bar.waits ? "waits" : ""} ${bar.name}`;
      if (!traces.has(key)) {
        traces.set(key, {
          type: "bar", orientation: "h", name: escaped(bar.name), legendgroup: bar.name, showlegend: !bar.waits, pale: Boolean(bar.waits),
          base: [], x: [], y: [], hovertext: [], customdata: [], hovertemplate: "%{hovertext}<extra></extra>",
          marker: { color: bar.waits ? faint(colour(bar.colour)) : colour(bar.colour), line: { width: 0 } },
        });
      }
      const trace = traces.get(key);
      trace.base.push(stamp(bar.from));
      trace.x.push(Math.max((bar.to - bar.from) * 1000, (chart.end - chart.begin) / 2)); // half a thousandth of the width
      trace.y.push(bar.lane);
      trace.hovertext.push([...(chart.titles ? [chart.titles[bar.lane]] : []), ...bar.text].map(escaped).join("<br>"));
      trace.customdata.push(bar.href);
    }
    // Pale ones first: they end where the others begin.
    const sorted = [...traces.values()].sort((a, b) => b.pale - a.pale);
    const named = new Set(sorted.filter((t) => t.showlegend).map((t) => t.name));
    return sorted.map(({ pale, ...trace }) => ({ ...trace, showlegend: trace.showlegend || !named.has(trace.name) }));
  },

  histogram(chart, look) {
    look.showlegend = false;
    look.bargap = 0.08;
    look.xaxis = { ...look.xaxis, type: "category", fixedrange: true };
    look.yaxis.rangemode = "tozero";
    return [{
      type: "bar", x: chart.steps.map((s) => s.from), y: chart.steps.map((s) => s.count),
      marker: { color: colour(chart.colour) }, hovertext: chart.steps.map((s) => `${s.from} to ${s.to}: ${s.count}`),
      hovertemplate: "%{hovertext}<extra></extra>",
    }];
  },
};

function binary(chart) {
  const most = Math.max(1, ...chart.series.flatMap((s) => s.values));
  const power = Math.min(4, Math.floor(Math.log2(most) / 10));
  return [1024 ** power, ["B", "KiB", "MiB", "GiB", "TiB"][power]];
}

function faint(rgb) {
  const n = parseInt(rgb.slice(1), 16);
  return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, 0.35)`;
}

// --- one chart

const isEmpty = (chart) => !(chart.series?.length && chart.times?.length) && !chart.bars?.length && !chart.steps?.length;

async function load(element) {
  const state = drawn.get(element.id) ?? { etag: null, window: null, chart: null, asked: 0 };
  drawn.set(element.id, state);
  const mine = ++state.asked;
  let address = element.dataset.chart;
  if (state.window) {
    address += `${address.includes("?") ? "&" : "?"}from=${state.window[0].toFixed(3)}&to=${state.window[1].toFixed(3)}`;
  }
  const headers = state.etag ? { "If-None-Match": state.etag } : {};
  let answer;
  try {
    answer = await fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(30000) });
  } catch {
    return fail(element, state, "The dashboard does not answer.");
  }
  if (answer.status === 304 || mine !== state.asked) return undefined;
  if (!answer.ok) {
    const why = await answer.json().catch(() => ({ text: `answer ${answer.status}` }));
    return fail(element, state, why.text);
  }
  state.etag = answer.headers.get("ETag");
  state.chart = await answer.json();
  if (mine === state.asked) await draw(element, state);
  return undefined;
}

function fail(element, state, text) {
  if (!state.chart) element.innerHTML = `<p class="muted">${escaped(text)}</p>`;
}

async function draw(element, state) {
  const chart = state.chart;
  element.setAttribute("aria-label", chart.label);
  document.getElementById(`${element.id}-note`).textContent = chart.note;
  fillTable(element.id, chart.table);
  if (isEmpty(chart)) {
    if (state.plotted) Plotly.purge(element);
    state.plotted = false;
    element.innerHTML = '<p class="muted">Nothing to show yet.</p>';
  } else {
    if (chart.kind === "bars") element.style.height = `${Math.min(900, Math.max(190, 70 + chart.lanes.length * (chart.named ? 19 : 2)))}px`;
    if (!state.plotted) element.replaceChildren();
    const look = layout(chart);
    const traces = kinds[chart.kind](chart, look);
    if (!element.dataset.zooms) look.xaxis.fixedrange = true;
    await Plotly.react(element, traces, look, { displayModeBar: false, responsive: true, doubleClick: false, showTips: false });
    if (!state.plotted) listen(element, state);
    state.plotted = true;
  }
  element.dataset.drawn = String(Number(element.dataset.drawn ?? 0) + 1);
}

function listen(element, state) {
  element.on("plotly_click", (event) => {
    const href = event.points[0]?.customdata;
    if (typeof href === "string" && href) location.assign(href);
  });
  element.on("plotly_hover", (event) => {
    element.classList.toggle("over", Boolean(event.points[0]?.customdata));
  });
  if (!element.dataset.zooms) return;
  element.on("plotly_relayout", (change) => {
    const from = change["xaxis.range[0]"];
    const to = change["xaxis.range[1]"];
    if (from !== undefined && to !== undefined) zoom(element, state, [secondsOf(from), secondsOf(to)]);
  });
  element.on("plotly_doubleclick", () => zoom(element, state, null));
}

function zoom(element, state, range) {
  state.window = range;
  state.etag = null;
  return load(element);
}

function fillTable(id, table) {
  const place = document.querySelector(`#${CSS.escape(id)}-table .scroll`);
  const cell = (value) => {
    if (value?.href !== undefined) return `<a href="${escaped(value.href).replace(/"/g, "&quot;")}">${escaped(value.text)}</a>`;
    return escaped(value?.at !== undefined ? stamp(value.at).slice(0, 19) : value);
  };
  const head = table.columns.map((c) => `<th>${escaped(c)}</th>`).join("");
  const rows = table.rows.map((row) => `<tr>${row.map((v) => `<td>${cell(v)}</td>`).join("")}</tr>`).join("");
  const more = table.more ? `<p class="muted">and ${table.more} more</p>` : "";
  place.innerHTML = `<table><thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table>${more}`;
}

// --- all charts

const all = () => [...document.querySelectorAll("[data-chart]")];

export async function drawCharts() {
  await Promise.all(all().map(load));
}

export async function refreshCharts() {
  await Promise.all(all().map(load));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-zoom]");
  if (!button) return;
  const element = document.getElementById(button.parentElement.dataset.for);
  const state = drawn.get(element.id);
  if (!state?.chart) return;
  const { begin, end } = state.chart;
  const width = end - begin;
  const to = {
    in: [begin + width / 4, end - width / 4], out: [begin - width / 2, end + width / 2],
    left: [begin - width / 4, end - width / 4], right: [begin + width / 4, end + width / 4], all: null,
  }[button.dataset.zoom];
  zoom(element, state, to && to[0] < 0 ? [0, to[1]] : to);
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const element of all()) {
    const state = drawn.get(element.id);
    if (state?.chart) draw(element, state);
  }
});
