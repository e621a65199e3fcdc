// Lines over rounds, time or bytes: uPlot draws, this adds what it leaves out - a legend with values, a cursor for the
// keyboard, a table for those who cannot see lines, the theme's colours, dashes as a second channel beside colour.

import { h, s } from "./dom.js";

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 4], [1, 4], [8, 2, 2, 2, 2, 2], [5, 5], [14, 3, 3, 3]];
let serial = 0;

// Numbers as people read them: four digits that count, no noise behind them.
export function plain(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
}

function span(value) {
  if (value < 120) return `${plain(value)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 120 ? `${minutes} min` : `${plain(value / 3600)} h`;
}

function size(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (Math.abs(value) >= 1000 && at < units.length - 1) { value /= 1000; at += 1; }
  return `${Number(value.toPrecision(3))} ${units[at]}`;
}

const AXES = {
  round: { name: "round", say: String },
  time: { name: "time", say: (value) => new Date(value * 1000).toLocaleTimeString() },
  seconds: { name: "since its start", say: span },
  bytes: { name: "bytes moved", say: size },
};

// A spike (a loss that left the rails once) may be in it; nothing is cut, but one value alone still gets an axis around it.
function range(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const edge = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  return [low >= 0 && low - edge < 0 ? 0 : low - edge, high + edge];
}

function points(series) {
  const pairs = new Map();
  series.x.forEach((x, index) => { if (Number.isFinite(x)) pairs.set(x, Number.isFinite(series.y[index]) ? series.y[index] : null); });
  return { label: series.label, colour: series.colour, pairs };
}

// Draw a chart into `host` and return its handle {set, append, destroy}; see use-the-page for what its keys do.
export function chart(host, options) {
  const axis = AXES[options.x ?? "round"];
  const say = options.format ?? plain;
  const id = `chart-${++serial}`;
  const plot = h("div.plot", { tabindex: 0, role: "slider", "aria-labelledby": id, "aria-valuemin": 0 });
  const where = h("span.where");
  const legend = h("div.legend");
  const table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": `${options.title}: values` });
  const details = h("details", { ontoggle: list }, h("summary", "Values as a table"), table);
  const empty = h("p.empty", "No values yet.");
  const figure = h("figure.chart", h("figcaption", { id }, options.title), plot, empty, legend, details);
  host.replaceChildren(figure);
  let kept = [];
  let data = [[]];
  let drawing;
  let shape = "";
  let frame = 0;
  const hidden = new Set();
  const colour = (name, fallback) => getComputedStyle(figure).getPropertyValue(name).trim() || fallback;
  const tint = (series, index) => `--c${(series.colour ?? index) % 10}`;

  function build(Plot) {
    drawing?.destroy();
    const grid = () => colour("--line", "#8884");
    const ink = () => colour("--muted", "#777");
    const common = { stroke: ink, font: "12px system-ui, sans-serif", ticks: { show: false } };
    drawing = new Plot({
      width: Math.max(plot.clientWidth, 120), height: options.height ?? 220,
      legend: { show: false }, padding: [8, 12, 0, 0],
      cursor: { points: { size: 8 }, drag: { x: true, y: false }, focus: { prox: 24 } },
      scales: { x: { time: options.x === "time", range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: { range } },
      axes: [
        { ...common, grid: { stroke: grid, width: 1 }, size: 30, space: 64,
          ...(options.x === "time" ? {} : { values: (_, marks) => marks.map(axis.say) }),
          ...((options.x ?? "round") === "round" ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] } : {}) },
        { ...common, grid: { stroke: grid, width: 1 }, size: 58, values: (_, marks) => marks.map(say) },
      ],
      series: [{}, ...kept.map((series, index) => ({
        label: series.label, show: !hidden.has(series.label), width: 2,
        stroke: () => colour(tint(series, index), "#0072b2"), dash: DASHES[(series.colour ?? index) % DASHES.length],
        points: { show: (u, _, first, last) => last - first < 2 || (u.data[0].length <= 60 && u.width > 300), size: 5, fill: () => colour(tint(series, index), "#0072b2") },
      }))],
      hooks: { setCursor: [values] },
    }, data, plot);
    drawing.over.setAttribute("aria-hidden", "true");
  }

  // One row for each series: a switch with its line's look, and its value under the cursor, else its last one.
  function legends() {
    legend.replaceChildren(where, ...kept.map((series, index) => {
      const line = s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("line", { x2: 26, y1: 5, y2: 5, "stroke-width": 2.5,
        "stroke-dasharray": DASHES[(series.colour ?? index) % DASHES.length].join(" ") || null, css: { stroke: `var(${tint(series, index)})` } }));
      const shown = h("button", { type: "button", "aria-pressed": String(!hidden.has(series.label)), title: `${series.label}: show or hide` }, line, h("bdi", series.label), h("output", { "aria-live": "off" }));
      shown.onclick = () => {
        hidden.has(series.label) ? hidden.delete(series.label) : hidden.add(series.label);
        shown.setAttribute("aria-pressed", String(!hidden.has(series.label)));
        drawing?.setSeries(index + 1, { show: !hidden.has(series.label) });
      };
      return shown;
    }));
    values();
  }

  function values() {
    const index = drawing?.cursor.idx ?? null;
    const told = kept.map((series, nth) => {
      const column = data[nth + 1] ?? [];
      const value = index === null ? column.findLast((each) => each !== null && each !== undefined) : column[index];
      const output = legend.querySelectorAll("output")[nth];
      if (output) output.textContent = say(value);
      return [series.label, value];
    });
    where.textContent = index === null ? "newest" : `${axis.name} ${axis.say(data[0][index])}`;
    const now = index ?? data[0].length - 1;
    plot.setAttribute("aria-valuemax", String(Math.max(0, data[0].length - 1)));
    plot.setAttribute("aria-valuenow", String(Math.max(0, now)));
    const known = told.filter(([label, value]) => value !== undefined && !hidden.has(label));
    plot.setAttribute("aria-valuetext", now < 0 ? "no values" : `${axis.name} ${axis.say(data[0][now])}: ${known.map(([label, value]) => `${label} ${say(value)}`).join(", ")}`);
  }

  function list() {
    if (!details.open) return;
    const head = h("tr", h("th", { scope: "col" }, axis.name), kept.map((series) => h("th", { scope: "col" }, series.label)));
    const from = Math.max(0, data[0].length - 1000); // a table of more would hold up the page
    const rows = data[0].slice(from).map((x, nth) => [x, nth + from]).map(([x, index]) => h("tr", h("th", { scope: "row" }, axis.say(x)), kept.map((_, nth) => h("td", data[nth + 1][index] === undefined ? "" : say(data[nth + 1][index])))));
    table.replaceChildren(h("table", h("thead", head), h("tbody", rows)));
  }

  function draw() {
    frame = 0;
    const some = kept.some((series) => series.pairs.size);
    plot.hidden = legend.hidden = details.hidden = !some;
    empty.hidden = some;
    if (!some) return;
    if (!figure.isConnected) return;
    const Plot = globalThis.uPlot;
    const tables = kept.map((series) => {
      const sorted = [...series.pairs].sort(([a], [b]) => a - b);
      return [sorted.map(([x]) => x), sorted.map(([, y]) => y)];
    });
    const held = zoomed();
    data = Plot.join(tables);
    const next = JSON.stringify(kept.map((series) => [series.label, series.colour]));
    if (!drawing || next !== shape) { shape = next; build(Plot); legends(); } else { drawing.setData(data, !held); if (held) drawing.redraw(); values(); }
    list();
  }

  const zoomed = () => Boolean(drawing) && (drawing.scales.x.min > data[0][0] || drawing.scales.x.max < data[0].at(-1));
  const later = () => { frame ||= requestAnimationFrame(draw); };

  function move(index) {
    const to = Math.min(Math.max(index, 0), data[0].length - 1);
    drawing.setCursor({ left: drawing.valToPos(data[0][to], "x"), top: drawing.over.clientHeight / 2 });
  }

  plot.addEventListener("keydown", (event) => {
    if (!drawing || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = drawing.cursor.idx ?? data[0].length - 1;
    const steps = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: data[0].length - 1, PageUp: now + 10, PageDown: now - 10 };
    if (event.key in steps) move(steps[event.key]);
    else if (event.key === "Escape") { drawing.setCursor({ left: -10, top: -10 }); drawing.setData(data); } else return;
    event.preventDefault();
  });
  const resized = new ResizeObserver(() => {
    if (!drawing) later();
    else if (plot.clientWidth && plot.clientWidth !== drawing.width) drawing.setSize({ width: plot.clientWidth, height: options.height ?? 220 });
  });
  resized.observe(plot);
  const repaint = () => drawing?.redraw(false, true);
  const themes = new MutationObserver(repaint);
  themes.observe(document.documentElement, { attributes: true });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", repaint);

  const handle = {
    set(series) { kept = series.map(points); later(); },
    append(label, x, y) {
      let series = kept.find((each) => each.label === label);
      if (!series) kept = [...kept, series = points({ label, x: [], y: [] })];
      series.pairs.set(x, Number.isFinite(y) ? y : null);
      later();
    },
    destroy() {
      cancelAnimationFrame(frame);
      resized.disconnect();
      themes.disconnect();
      dark.removeEventListener("change", repaint);
      drawing?.destroy();
    },
  };
  handle.set(options.series ?? []);
  return handle;
}
