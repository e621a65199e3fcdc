// One session: how far it is and why it waits, its rounds and where each client's time went, its curves, its bytes, who
// was not counted and why, its settings, and what its journal said last.

import { chart } from "../chart.js";
import { h } from "../dom.js";
import { ago, bytes, clock, count, duration, metrics, moment, names, number } from "../format.js";
import { me, only } from "../me.js";
import { hasEnded, modelLink, progress, status, waitList } from "../parts.js";
import { href } from "../router.js";
import { same } from "../settings.js";
import { clientBars, clientTable, refusals, roundBars, roundMarks, ROUNDS_SHOWN, spans, when } from "../timeline.js";
import { card, confirm, copyable, digest, facts, heading, table, toast } from "../ui.js";

const EVENTS_SHOWN = 12;
const ROUNDS_PAGE = 500;
const REASONS_SHOWN = 20;

export default async function session(ctx) {
  const { params, query, api, signal, title, fresh, root } = ctx;
  const name = params.session;
  title(name);
  const state = root.kept?.name === name ? root.kept : { name, rounds: new Rounds(), curves: [], events: [], charts: new Map(), open: {}, schema: null };
  root.kept = state; // another round is chosen: what is known stays
  state.asked = query.get("round") ? Number(query.get("round")) : null;
  state.charts = new Map();
  const draw = () => ctx.paint(...page(ctx, state, draw));
  const path = (...rest) => ["sessions", name, ...rest];
  const load = async () => {
    const [info, , curves, events] = await Promise.all([api.get(path(), { signal }), state.rounds.load(api, path("rounds"), signal),
      api.all(path("curves"), { signal }), api.get(path("events"), { query: { limit: EVENTS_SHOWN, order: "newest" }, signal })]);
    Object.assign(state, { info, curves, events: events.items });
    const wanted = state.asked ?? state.rounds.all.at(-1)?.round;
    state.detail = wanted === undefined || !me.may("session.inspect") ? null : await api.get(path("rounds", String(wanted)), { signal }).catch((error) => {
      if (error.status !== 404) throw error;
      return null;
    });
    draw();
    curvesOf(state, signal);
  };
  if (!state.schema) state.schema = api.get("settings", { signal }).then((schema) => { state.schema = schema; if (state.info) draw(); }).catch(() => { state.schema = null; });
  await fresh(load, { session: name, pause_ms: 600 });
  // What waits comes with the overview, once a second: no request of its own.
  ctx.live.onOverview((overview) => {
    if (!state.info || hasEnded(state.info)) return;
    state.info = { ...state.info, waits: overview.waits.filter((one) => one.session === name) };
    draw();
  }, signal);
}

/** The rounds of a session, read by pages; full pages do not change any more. */
class Rounds {
  pages = [];
  cursors = [undefined];

  get all() {
    return this.pages.flat();
  }

  async load(api, path, signal) {
    for (let at = Math.max(0, this.pages.length - 1); ; at += 1) {
      const page = await api.get(path, { query: { limit: ROUNDS_PAGE, cursor: this.cursors[at] }, signal });
      this.pages[at] = page.items;
      if (!page.next) return;
      this.cursors[at + 1] = page.next;
    }
  }
}

function page(ctx, state, draw) {
  const { info } = state;
  const rounds = state.rounds.all;
  return [
    head(ctx, state),
    info.reason && hasEnded(info) && h("div", { key: "reason", class: ["failed", "refused"].includes(info.status) ? "problem" : "notice" }, h("p", h("strong", `${info.status}: `), info.reason)),
    !hasEnded(info) && card("Why it waits", { key: "waits" }, info.waits.length ? waitList(info.waits, false) : h("p.empty-line", "It does not wait for anybody.")),
    summary(info, rounds),
    h("div.charts", { key: "curves" }, curveCards(state), bytesCard(rounds)),
    card("Rounds", { key: "rounds", aside: rounds.length > 0 && roundMarks() }, rounds.length ? timeline(state, rounds) : h("p.empty-line", info.config.rounds ? "No round has been opened yet." : "It trains nothing: the model is evaluated once.")),
    state.detail && round(state, draw),
    refused(rounds),
    settings(state),
    tail(state),
  ];
}

function head({ api }, state) {
  const { info } = state;
  const stop = async () => {
    const done = await confirm(`Stop ${info.session}`, { text: "The models that it has published stay; its open round is given up. This cannot be taken back: clone it to begin anew.", action: "Stop the session", danger: true,
      field: { label: "Why (goes into the journal)", value: "stopped by request", required: true }, act: (reason) => api.post(["sessions", info.session, "stop"], { reason }) });
    if (done) toast(`${info.session} is asked to stop`);
  };
  const times = [info.started_at && ["started ", ago(info.started_at)], info.by && [" by ", h("bdi", info.by)],
    info.ended_at && info.started_at && `, took ${duration(info.ended_at - info.started_at)}`, info.base && [", from ", modelLink(info.base)]];
  return heading(h("bdi", info.session), { back: h("a", { href: "#/sessions" }, "Sessions"), badges: status(info), note: times },
    !hasEnded(info) && only("session.stop", h("button.danger", { type: "button", onclick: stop }, "Stop")),
    only("session.start", h("a.button", { href: href("sessions/new", { clone: info.session }) }, "Clone")),
    h("a.button", { href: href("compare", { session: info.session }) }, "Compare"),
    only("session.inspect", h("a.button", { href: api.url(["sessions", info.session, "export"], { format: "json" }), download: `${info.session}.json` }, "JSON")),
    only("session.inspect", h("a.button", { href: api.url(["sessions", info.session, "export"], { format: "csv" }), download: `${info.session}.csv` }, "CSV")));
}

function summary(info, rounds) {
  const closed = rounds.filter((one) => one.state === "closed" && one.seconds !== null);
  const took = closed.slice(-20).map((one) => one.seconds).sort((one, other) => one - other);
  return card("At a glance", { key: "summary" }, facts([
    ["rounds", progress(info)],
    ["time left", !hasEnded(info) && (info.left_s === null ? "not known yet" : `about ${duration(Math.round(info.left_s))}`)],
    ["metrics", metrics(info.metrics)],
    ["a round takes", took.length > 0 && `${duration(took[Math.floor(took.length / 2)])} (median of the last ${took.length})`],
    ["model", info.version && [modelLink(info.version), " ", h("span.muted", bytes(info.nbytes))]],
    ["digest", digest(info.digest)],
    ["best", info.best_version && info.config.best_metric && [modelLink(info.best_version), info.best_value !== null && h("span.muted", ` ${info.config.best_metric}: ${number(info.best_value)}`)]],
    ["strategy", h("bdi", info.strategy)], ["codec", info.codec],
    ["clients needed", number(info.clients_min)],
    ["sent by clients", bytes(info.bytes_up)], ["fetched by clients", bytes(info.bytes_down)],
    ["failed attempts", info.failures > 0 && number(info.failures)],
  ]));
}

function timeline(state, rounds) {
  const chosen = state.detail?.round ?? rounds.at(-1).round;
  const address = (round) => href(["sessions", state.name], { round });
  let last = rounds.length;
  if (state.asked !== null) {
    const at = rounds.findLastIndex((one) => one.round === state.asked);
    if (at >= 0 && at < last - ROUNDS_SHOWN) last = Math.min(last, at + Math.floor(ROUNDS_SHOWN / 2));
  }
  const first = Math.max(0, last - ROUNDS_SHOWN);
  const jump = (round, text) => h("a.button", { href: address(round) }, text);
  return [roundBars(rounds.slice(first, last), chosen, address, clock.now()),
    (first > 0 || last < rounds.length) && h("div.pager", h("span", `rounds ${number(rounds[first].round)} to ${number(rounds[last - 1].round)}`),
      first > 0 && jump(rounds[Math.max(0, first - Math.floor(ROUNDS_SHOWN / 2))].round, "Earlier"), last < rounds.length && jump(rounds[Math.min(rounds.length - 1, last + Math.floor(ROUNDS_SHOWN / 2))].round, "Later"))];
}

function round(state, draw) {
  const { detail, name } = state;
  const open = state.open;
  const step = (by) => {
    const all = state.rounds.all.map((one) => one.round);
    const next = all[all.lastIndexOf(detail.round) + by];
    return h("a.button", next === undefined ? { "aria-disabled": "true" } : { href: href(["sessions", name], { round: next }), "aria-label": by < 0 ? "The round before" : "The next round" }, by < 0 ? "\u2190" : "\u2192");
  };
  return card(`Round ${detail.round}`, { key: "round", id: "round-title", aside: h("div.actions", state.asked !== null && !hasEnded(state.info) && h("a", { href: href(["sessions", name]) }, "follow the newest"),
    h("a", { href: href(["sessions", name, "rounds", String(detail.round), "trace"]) }, "Trace"), step(-1), step(1)) },
  h("p.why-closed", detail.why || (detail.state === "training" ? "Open: clients are training." : detail.state === "closing" ? "It is decided what counts; the model is being merged." : detail.state)),
  facts([
    ["updates", `${number(detail.counted)} ${detail.closed_at ? "counted" : "there"} of ${number(detail.asked)} asked`], ["target, quorum", `${number(detail.target)}, ${number(detail.quorum)}`],
    ["took", detail.seconds === null ? null : duration(detail.seconds)], ["opened", when(detail.opened_at)], ["deadline", when(detail.deadline_at)], ["set was fixed", when(detail.fixed_at)], ["closed", when(detail.closed_at)],
    ["model", modelLink(detail.version)], ["up, down", `${bytes(detail.bytes_up)}, ${bytes(detail.bytes_down)}`],
    ["while training", metrics(detail.train_metrics)], ["evaluated", metrics(detail.metrics)], ["trace", detail.trace_id && copyable(detail.trace_id, `${detail.trace_id.slice(0, 12)}\u2026`)],
  ]),
  detail.earlier.length > 0 && h("div.notice", h("p", "Earlier attempts: "), h("ul", detail.earlier.map((one) => h("li", one)))),
  h("h3", "Where the clients' time went"),
  detail.clients.length ? clientBars(detail, open, clock.now(), draw) : h("p.empty-line", "No client is known of it."),
  detail.clients.length > 0 && h("details", { key: "table", ontoggle: (event) => { open.table = event.target.open; draw(); } }, h("summary", "All numbers, as a table"), open.table && clientTable(detail)));
}

/** The charts are uPlot's: what is painted is a place for each metric, which is filled when it is there. */
function curveCards(state) {
  const found = [...new Set(state.curves.map((one) => one.metric))].sort();
  if (!found.length) return h("section.card", { key: "no-curves" }, h("h2", "Metrics"), h("p.empty-line", "No metrics yet: they come with the first round."));
  return found.map((metric) => h("section.card", { key: `curve-${metric}`, "aria-label": `Curve of ${metric}` }, h("div", { key: "plot", keep: true, "data-chart": metric })));
}

const bytesCard = (rounds) => rounds.some((one) => one.bytes_up) ? h("section.card", { key: "bytes", "aria-label": "Bytes per round" }, h("div", { key: "plot", keep: true, "data-chart": "\u0000bytes" })) : null;

function curvesOf(state, signal) {
  for (const node of document.querySelectorAll("[data-chart]")) {
    const metric = node.dataset.chart;
    const all = metric === "\u0000bytes";
    const series = all ? bytesSeries(state.rounds.all) : curveSeries(state.curves, metric);
    const known = state.charts.get(node);
    if (known) known.update({ series });
    else state.charts.set(node, chart(node, { title: all ? "Bytes per round" : metric, x: { label: "round" }, height: 200, format: all ? (value) => bytes(value) : undefined, series }, signal));
  }
}

const curveSeries = (curves, metric) => curves.filter((one) => one.metric === metric).sort((one) => one.of === "evaluate" ? -1 : 1).map((one) => ({
  name: one.of === "evaluate" ? "evaluated" : "while training", color: one.of === "evaluate" ? "--c1" : "--c2", dashed: one.of === "train", points: one.rounds.map((round, index) => [round, one.values[index]]) }));

const bytesSeries = (rounds) => [["bytes_up", "sent by clients", "--t-upload", false], ["bytes_down", "fetched by clients", "--t-fetch", true]].map(([key, name, color, dashed]) => ({
  name, color, dashed, points: rounds.filter((one) => one.state === "closed").map((one) => [one.round, one[key]]) }));

function refused(rounds) {
  const found = refusals(rounds);
  if (!found.length) return null;
  return card("Not counted, and why", { key: "refused", aside: count(found.reduce((all, one) => all + one.times, 0), "time") }, table({ caption: "Reasons for which updates were not counted", rows: found.slice(0, REASONS_SHOWN), id: (one) => one.reason, columns: [
    { key: "reason", label: "Reason", head: true, class: "break" }, { key: "times", label: "Times", num: true, cell: (one) => number(one.times) },
    { key: "clients", label: "Clients", cell: (one) => names([...one.clients]) }, { key: "rounds", label: "Rounds", cell: (one) => spans(one.rounds) }] }),
  found.length > REASONS_SHOWN && h("p.muted", `and ${count(found.length - REASONS_SHOWN, "more reason")}: the events have all`));
}

function settings({ info, schema }) {
  const known = schema?.properties ?? {};
  const rows = Object.entries(info.config).map(([key, value]) => ({ key, value, standard: key in known ? known[key].default ?? (known[key].type === "object" ? {} : null) : undefined }));
  const changed = rows.filter((one) => one.standard === undefined || !same(one.value, one.standard));
  const text = (value) => value === null ? "none" : typeof value === "object" ? h("code", JSON.stringify(value)) : String(value);
  const list = (some) => facts(some.map((one) => [one.key, text(one.value)]));
  return card("Settings", { key: "settings", aside: schema?.properties ? `${number(changed.length)} of ${number(rows.length)} differ from the default` : null },
    changed.length ? list(changed) : h("p.empty-line", "All by default."),
    changed.length < rows.length && h("details", { key: "rest" }, h("summary", "Those by default"), list(rows.filter((one) => !changed.includes(one)))));
}

function tail({ events, name }) {
  return card("Last events", { key: "events", aside: h("a", { href: href("events", { session: name }) }, "All events") }, table({ caption: "The journal's newest entries", dense: true, rows: events, id: (one) => one.id, empty: "No event yet.", columns: [
    { key: "at", label: "When", cell: (one) => h("span.nowrap", { title: moment(one.at) }, ago(one.at)) }, { key: "kind", label: "Event", head: true },
    { key: "data", label: "What", class: "break", cell: (one) => brief(one.data) }] }));
}

/** The plain fields of a record; long lists as how many there are. */
function brief(data) {
  return Object.entries(data).filter(([key]) => !["config", "traceparent", "blob", "plan", "incarnations", "session", "at", "digest"].includes(key)).map(([key, value]) => {
    if (value === "" || value === null || value === 0) return null;
    if (Array.isArray(value)) return value.length ? `${key} ${value[0].client ? names(value.map((one) => one.client), 3) : number(value.length)}` : null;
    if (typeof value === "object") return Object.keys(value).length ? key === "metrics" ? metrics(value) : `${key} ${number(Object.keys(value).length)}` : null;
    if (key.endsWith("_at")) return null;
    return `${key} ${key === "nbytes" || key.startsWith("bytes") ? bytes(value) : typeof value === "number" ? number(value) : value}`;
  }).filter(Boolean).join(" \u00b7 ").slice(0, 240);
}
