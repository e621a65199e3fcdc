// Lines over rounds, time or bytes: uPlot draws; added is what it leaves out - a legend with values, a cursor for the
// keyboard, a table for those who cannot see lines, the theme's colours, dashes as a second channel beside colour.

import { h, s } from "./dom.js";
import { bytes, duration, moment, number } from "./format.js";
import { theme } from "./theme.js";

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 4], [1, 4], [8, 2, 2, 2, 2, 2], [5, 5], [14, 3, 3, 3]];
const SAYS = { round: (x) => number(x), time: (x) => moment(x).slice(11), duration: (x) => duration(x), bytes: (x) => bytes(x) };
const INCREMENTS = { round: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000],
  time: [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800, 2592000] };
const ROWS_MAX = 1000; // of the table: more would hold up the page
let serial = 0;

// Nothing is cut off; one value alone still gets an axis around it.
function range(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const edge = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  return [low >= 0 && low < edge ? 0 : low - edge, high + edge];
}

const known = (value) => value !== null && value !== undefined;

function line({ name, points, color, dashed, nth }, index) {
  const look = nth ?? index;
  const values = new Map();
  for (const [x, y] of points) if (Number.isFinite(x)) values.set(x, Number.isFinite(y) ? y : null);
  return { name, values, color: color ?? `--c${look % 8 + 1}`, dash: dashed === undefined ? DASHES[look % DASHES.length] : DASHES[Number(dashed)] };
}

/**
 * Draw lines into an empty element: chart(node, {title, x: {label, kind}, height, format, series}, signal).
 *
 * `x.kind`: "round" (default), "time" (since the epoch), "duration", "bytes"; series: [{name, points: [[x, y], ...], color:
 * "--c1", dashed, nth}]; y null is a gap; `nth`: of which look (colour and dashes), where it is not that of its place. Returns {update({series}), append(name, x, y)}; ends with the signal.
 */
export function chart(node, { title, unit = "", x: { label = "round", kind = "round" } = {}, height = 220, format, series: first = [] }, signal) {
  const id = `chart-${++serial}`;
  const tell = SAYS[kind];
  const say = format ?? ((value) => (known(value) && unit ? `${number(value)} ${unit}` : number(value)));
  const plot = h("div.plot", { tabindex: 0, role: "slider", "aria-labelledby": id, "aria-valuemin": 0, onkeydown: key });
  const where = h("span.note");
  const legend = h("div.legend");
  const table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": `${title}: values` });
  const details = h("details.small", { ontoggle: list }, h("summary", "as a table"), table);
  const nothing = h("p.empty-line", "no values yet");
  const figure = h("figure.chart", h("figcaption", { id }, title), plot, nothing, legend, details);
  const hidden = new Set();
  const [line1, muted] = ["--line", "--muted"].map((name) => () => theme.color(name));
  let lines = [];
  let data = [[]];
  let drawn;
  let shape = "";
  let frame = 0;
  node.replaceChildren(figure);

  function build() {
    drawn?.destroy();
    const axis = { stroke: muted, font: "12px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: line1, width: 1 } };
    drawn = new globalThis.uPlot({
      width: Math.max(plot.clientWidth, 120), height, legend: { show: false }, padding: [8, 14, 0, 0],
      cursor: { points: { size: 8 }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: { range } },
      axes: [
        { ...axis, size: 28, space: 72, values: (_, marks) => marks.map(tell), ...(INCREMENTS[kind] && { incrs: INCREMENTS[kind] }) },
        { ...axis, size: 56, values: (_, marks) => marks.map(say) }],
      series: [{}, ...lines.map((each) => ({ show: !hidden.has(each.name), width: 2, stroke: () => theme.color(each.color), dash: each.dash,
        points: { size: 5, fill: () => theme.color(each.color) } }))],
      hooks: { setCursor: [values] },
    }, data, plot);
  }

  // For each line a switch with its look, and its value under the cursor, else its newest.
  function legends() {
    legend.replaceChildren(...lines.map((each, index) => h("button", { type: "button", "aria-pressed": !hidden.has(each.name) ? "true" : "false", title: `${each.name}: show or hide`,
      onclick: (event) => {
        hidden.has(each.name) ? hidden.delete(each.name) : hidden.add(each.name);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(each.name)));
        drawn.setSeries(index + 1, { show: !hidden.has(each.name) });
      } }, s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("line", { x2: 26, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": each.dash.join(" ") || null,
      css: { stroke: `var(${each.color})` } })), h("bdi", each.name), h("span.value"))), where);
    values();
  }

  function values() {
    const at = drawn?.cursor.idx ?? null;
    const now = at ?? data[0].length - 1;
    const told = lines.map((each, nth) => {
      const value = at === null ? data[nth + 1].findLast(known) : data[nth + 1][at];
      legend.children[nth]?.lastChild.replaceChildren(say(value));
      return known(value) && !hidden.has(each.name) && `${each.name} ${say(value)}`;
    });
    where.textContent = at === null ? "newest" : `${label} ${tell(data[0][at])}`;
    for (const [name, value] of Object.entries({ max: data[0].length - 1, now, text: `${label} ${tell(data[0][now])}: ${told.filter(Boolean).join(", ")}` })) plot.setAttribute(`aria-value${name}`, value);
  }

  function list() {
    if (!details.open) return;
    const from = Math.max(0, data[0].length - ROWS_MAX);
    table.replaceChildren(h("table.dense", h("thead", h("tr", [label, ...lines.map((each) => each.name)].map((text, nth) => h("th", { scope: "col", class: nth ? "num" : null }, text)))),
      h("tbody", data[0].slice(from).map((x, nth) => h("tr", h("th", { scope: "row" }, tell(x)), lines.map((_, of) => h("td.num", known(data[of + 1][from + nth]) ? say(data[of + 1][from + nth]) : "")))))));
  }

  const zoomed = () => Boolean(drawn) && (drawn.scales.x.min > data[0][0] || drawn.scales.x.max < data[0].at(-1));

  function draw() {
    frame = 0;
    const some = lines.some((each) => each.values.size);
    plot.hidden = legend.hidden = details.hidden = !some;
    nothing.hidden = some;
    if (!some || !figure.isConnected) return;
    const held = zoomed();
    data = globalThis.uPlot.join(lines.map((each) => {
      const pairs = [...each.values].sort(([a], [b]) => a - b);
      return [pairs.map(([x]) => x), pairs.map(([, y]) => y)];
    }));
    const next = JSON.stringify(lines.map((each) => [each.name, each.color, each.dash]));
    if (next !== shape) {
      shape = next;
      build();
      legends();
    } else {
      drawn.setData(data, !held);
      if (held) drawn.redraw();
      values();
    }
    list();
  }

  const later = () => { frame ||= requestAnimationFrame(draw); };

  function key(event) {
    if (!drawn || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = drawn.cursor.idx ?? data[0].length - 1;
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageUp: now + 10, PageDown: now - 10, Home: 0, End: data[0].length - 1 }[event.key];
    if (event.key === "Escape") {
      drawn.setCursor({ left: -10, top: -10 });
      drawn.setData(data);
    } else if (to !== undefined) {
      drawn.setCursor({ left: drawn.valToPos(data[0][Math.min(Math.max(to, 0), data[0].length - 1)], "x"), top: height / 2 });
    } else return;
    event.preventDefault();
  }

  const resized = new ResizeObserver(() => {
    if (!drawn) later();
    else if (plot.clientWidth && plot.clientWidth !== drawn.width) drawn.setSize({ width: plot.clientWidth, height });
  });
  resized.observe(figure);
  theme.onChange(() => drawn?.redraw(false, true), signal);
  signal?.addEventListener("abort", () => {
    cancelAnimationFrame(frame);
    resized.disconnect();
    drawn?.destroy();
  }, { once: true });

  const update = ({ series }) => {
    lines = series.map(line);
    later();
  };
  update({ series: first });
  return { update,
    append(name, x, y) {
      let one = lines.find((each) => each.name === name);
      if (!one) lines = [...lines, one = line({ name, points: [] }, lines.length)];
      one.values.set(x, Number.isFinite(y) ? y : null);
      later();
    } };
}
