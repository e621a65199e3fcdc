// A waterfall: the spans of one round on one line of time. The server's side stands span by span, each client in a group
// that opens; only the rows in sight are in the document, so that thousands of spans scroll as ten do.

import { h, paint } from "../dom.js";
import { duration, moment, number } from "../format.js";
import { press } from "../lists.js";
import { clientLink, sessionLink } from "../parts.js";
import { href } from "../router.js";
import { extent, marks, owner, rows } from "../spans.js";
import { copyable, empty, facts, heading } from "../ui.js";

const ROW = 26; // pixels
const KINDS = [["fetch", "--t-fetch", /fetch/], ["train", "--t-train", /^(train|evaluate|data)/], ["upload", "--t-upload", /upload|send/], ["server's work", "--c5", /fold|merge|seal|publish|step|store/], ["other", "--edge", /./]];
const tint = (span) => `var(${KINDS.find(([, , words]) => words.test(span.name))[1]})`;
const percent = (share) => `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(3)}%`;
const open = new Set();

export default async function trace(view) {
  const { params: { session, round }, signal, api } = view;
  view.title(`Trace of ${session}, round ${round}`);
  const head = (...actions) => heading(`Trace of round ${round}`, { back: [sessionLink(session), " / ", h("a", { href: href(["sessions", session], { round }) }, `round ${round}`)] }, ...actions);
  let told;
  try {
    told = await api.get(["sessions", session, "rounds", round, "trace"], { signal });
  } catch (error) {
    if (error.status !== 404) throw error;
    return view.paint(head(), empty("No spans of this round are known", [h("p", error.detail), h("p", "Roles that the command line starts send their spans to the broker, which keeps the newest in memory.")], h("a.button", { href: href("traces", { session }) }, "Other rounds")));
  }
  const { jaeger_url: jaeger = "" } = view.live.overview ?? await api.get("overview", { signal }).catch(() => ({}));
  const whole = extent(told.spans);
  let [from, to] = whole;
  let list = [], focus = "", only = "", drag = null;
  const inner = h("div.rows", { role: "presentation" });
  const pane = h("div.falls", { tabindex: 0, role: "tree", "aria-label": "Spans", onkeydown: key, onscroll: fill, onfocus: () => { if (!focus && list[0]) choose(list[0]); } }, inner);
  const axis = h("div.time", { "aria-hidden": "true", title: "drag to zoom in, double click for all", ondblclick: () => zoom(...whole), onpointermove: (event) => drag && pull(event), onpointerup: drop,
    onpointerdown: (event) => { axis.setPointerCapture(event.pointerId); drag = []; pull(event); } });
  const about = h("div.about", { "aria-live": "polite" });

  const share = (at) => (at - from) / (to - from);
  const seen = (row) => row.to >= from && row.from <= to;
  const bar = (row) => seen(row) && h("span.span", { class: `${row.critical ? "critical" : ""} ${row.error ? "failed" : ""}`,
    css: { left: percent(share(row.from)), width: `max(2px, ${percent(Math.min(share(row.to), 1) - Math.max(share(row.from), 0))})`, background: tint(row.span) } });

  const item = (row, at) => h("div.row", { key: row.id, id: `row-${at}`, role: "treeitem", class: row.id === focus ? "now" : null, "aria-level": row.depth + 1, "aria-setsize": list.length, "aria-posinset": at + 1, "aria-selected": String(row.id === focus),
    "aria-expanded": row.group ? String(row.open) : null, "aria-label": `${row.group ?? row.span.name}, ${duration(row.to - row.from)}${row.critical ? ", on the critical path" : ""}${row.error ? `, failed: ${row.error}` : ""}`,
    css: { top: `${at * ROW}px` }, onclick: () => { choose(row); if (row.group) toggle(row); } },
  h("span.label", { css: { "padding-left": `${Math.min(row.depth, 6) * .75}rem` } }, h("span.sign", row.group ? (row.open ? "\u25be" : "\u25b8") : row.error ? "\u2715" : row.critical ? "\u25c6" : ""),
    h("bdi", row.group?.slice(7) ?? row.span.name), row.span && row.span.role !== "client" && h("span.note", ` ${row.span.instance}`)),
  h("span.track", { class: row.group ? "group" : null }, row.group ? row.spans.filter((each) => each.depth === 2).map(bar) : bar(row),
    h("span.took", { css: share(row.to) > .85 ? { right: percent(1 - share(row.from)) } : { left: percent(share(row.to)) } }, seen(row) && duration(row.to - row.from))));

  function fill() {
    const first = Math.max(0, Math.floor(pane.scrollTop / ROW) - 6);
    const shown = list.slice(first, Math.ceil((pane.scrollTop + (pane.clientHeight || 600)) / ROW) + 6);
    inner.style.height = `${list.length * ROW}px`;
    paint(inner, shown.map((row, nth) => item(row, first + nth)));
    const at = shown.findIndex((row) => row.id === focus);
    at < 0 ? pane.removeAttribute("aria-activedescendant") : pane.setAttribute("aria-activedescendant", `row-${first + at}`);
  }

  function draw() {
    list = rows(told.spans, { open, only });
    paint(axis, marks(to - from, axis.clientWidth < 400 ? 3 : 8).map((mark) => h("span", { css: { left: percent(mark / (to - from)) } }, duration(mark + from - whole[0]))),
      drag && h("span.brush", { css: { left: `${Math.min(...drag)}px`, width: `${Math.abs(drag[1] - drag[0])}px` } }));
    fill();
    detail();
  }

  function detail() {
    const row = list.find((each) => each.id === focus);
    const say = (value) => typeof value === "number" ? number(value) : typeof value === "string" ? value : JSON.stringify(value);
    paint(about, !row ? h("p.note", "Choose a span to see what it says of itself. Arrows move, right and left open and close, + and \u2212 zoom, 0 shows all.")
      : (row.spans ?? [row]).map(({ id, span }) => h("section", { key: id }, h("h2", h("bdi", span.name)), facts([
        ["by", owner(span).startsWith("client ") ? clientLink(owner(span).slice(7)) : owner(span)], ["began", `${duration(span.start_at - whole[0])} in`], ["took", duration(span.end_at - span.start_at)], ["error", span.error && h("strong.warn", span.error)],
        ...(row.group ? [] : Object.entries(span.attributes).map(([name, value]) => [name, h("bdi", say(value))])), ["linked", span.links.join(", ")]]),
      !row.group && span.events.length > 0 && h("pre", { tabindex: 0 }, JSON.stringify(span.events, null, 2)))));
  }

  function choose(row) {
    focus = row.id;
    const top = list.indexOf(row) * ROW;
    if (top < pane.scrollTop || top + ROW > pane.scrollTop + pane.clientHeight) pane.scrollTop = top - pane.clientHeight / 2;
    fill();
    detail();
  }

  function toggle(row) {
    if (!open.delete(row.group)) open.add(row.group);
    draw();
  }

  function zoom(a, b) {
    const width = Math.min(Math.max(b - a, (whole[1] - whole[0]) / 5000), whole[1] - whole[0]);
    from = Math.min(Math.max(a, whole[0]), whole[1] - width);
    to = from + width;
    draw();
  }

  function closer(by) {
    const row = list.find((each) => each.id === focus && seen(each));
    const [middle, half] = [row ? (Math.max(row.from, from) + Math.min(row.to, to)) / 2 : (from + to) / 2, (to - from) * by / 2];
    zoom(middle - half, middle + half);
  }

  function key(event) {
    const at = list.findIndex((row) => row.id === focus);
    const row = list[at];
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 15, PageUp: at - 15, Home: 0, End: list.length - 1 }[event.key];
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    if (next !== undefined) choose(list[Math.min(Math.max(next, 0), list.length - 1)]);
    else if (row.group && { ArrowRight: !row.open, ArrowLeft: row.open, Enter: true }[event.key]) toggle(row);
    else if (event.key === "ArrowLeft") choose(list.slice(0, at).findLast((each) => each.depth < row.depth) ?? row);
    else if ("+=".includes(event.key)) closer(.5);
    else if (event.key === "-") closer(2);
    else if (event.key === "0") zoom(...whole);
    else return;
    event.preventDefault();
  }

  function pull(event) {
    drag[1] = event.clientX - axis.getBoundingClientRect().left;
    drag[0] ??= drag[1];
    draw();
  }

  function drop() {
    const [a, b] = (drag ?? [0, 0]).sort((one, other) => one - other).map((at) => from + (to - from) * at / axis.clientWidth);
    drag = null;
    b - a > (to - from) / 100 ? zoom(a, b) : draw();
  }

  const tool = (text, label, act) => press(text, act, { "aria-label": label, title: label });
  const clients = new Set(told.spans.map(owner).filter((who) => who.startsWith("client "))).size;
  view.paint(head(/^https?:\/\//.test(jaeger) && h("a.button", { href: `${jaeger.replace(/\/$/, "")}/trace/${told.trace_id}`, rel: "noreferrer", target: "_blank" }, "Open in Jaeger")),
    h("section.card", { "aria-label": "Waterfall" },
      facts([["took", duration(whole[1] - whole[0])], ["began", moment(whole[0])], ["spans", `${number(told.spans.length)}${told.complete ? "" : ", still open"}`], ["clients", number(clients)], ["trace", copyable(told.trace_id)]]),
      h("div.filters", h("input", { type: "search", "aria-label": "Search clients and spans", placeholder: "client or span", oninput: ({ target }) => { only = target.value.trim(); draw(); } }),
        tool("+", "Zoom in", () => closer(.5)), tool("\u2212", "Zoom out", () => closer(2)), tool("All", "Show the whole round", () => zoom(...whole)),
        h("ul.keys", KINDS.map(([text, color]) => h("li", h("i", { css: { background: `var(${color})` } }), text)), h("li", h("i.critical"), "critical path \u25c6"))),
      h("div", { keep: true, made: (node) => { node.append(h("div.ruler", h("span"), axis), pane, about); draw(); } })));
  const resized = new ResizeObserver(draw);
  resized.observe(pane);
  signal.addEventListener("abort", () => resized.disconnect());
}
