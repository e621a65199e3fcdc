// All sessions: found by status and name, sorted, by pages, as they go on.

import { h } from "../dom.js";
import { ago, bytes, duration, metrics, number } from "../format.js";
import { only } from "../me.js";
import { hasEnded, line, modelLink, progress, sessionLink, status } from "../parts.js";
import { href } from "../router.js";
import { card, empty, heading, sorted, table } from "../ui.js";

const STATUSES = ["running", "waiting", "starting", "completed", "stopped", "failed", "refused"];
const PAGE = 50;
const COMPARED_MAX = 10;

const COLUMNS = [
  { key: "session", label: "Session", head: true, sort: true, cell: (one) => sessionLink(one.session) },
  { key: "status", label: "Status", sort: true, cell: status },
  { key: "rounds", label: "Rounds", sort: (one) => one.rounds_closed / (one.rounds || 1), cell: progress },
  { key: "metrics", label: "Metrics", cell: (one) => line(metrics(one.metrics)), class: "says" },
  { key: "waits", label: "Waits, or why it ended", class: "says xwide", cell: (one) => line(one.waits[0]?.what ?? one.reason) },
  { key: "strategy", label: "Strategy", class: "wide says", sort: true, cell: (one) => line(one.strategy + (one.codec === "none" ? "" : `, ${one.codec}`)) },
  { key: "up", label: "Up", num: true, narrow: false, sort: (one) => one.bytes_up, cell: (one) => bytes(one.bytes_up) },
  { key: "took", label: "Took", num: true, narrow: false, sort: took, cell: (one) => duration(took(one)) },
  { key: "version", label: "Model", class: "xxwide", cell: (one) => modelLink(one.version) },
  { key: "started", label: "Started", narrow: false, sort: (one) => one.started_at, cell: (one) => ago(one.started_at) },
];

function took(one) {
  return one.started_at && one.ended_at ? one.ended_at - one.started_at : null;
}

const picked = new Set(); // to be compared: stays while one looks around

export default async function sessions(ctx) {
  const { query, api, signal, paint, ask, fresh } = ctx;
  const chosen = query.getAll("status");
  const order = query.get("order") === "oldest" ? "oldest" : "newest";
  const cursors = query.getAll("cursor");
  const sort = { by: query.get("by"), down: query.get("down") === "1" };
  let page = { items: [] };
  const filtered = chosen.length > 0 || query.get("text");
  const draw = () => paint(
    heading("Sessions", { note: page.total === null || page.total === undefined ? null : `${number(page.total)} ${filtered ? "found" : "in all"}` },
      h("button", { type: "button", disabled: picked.size < 2, title: "Tick two sessions or more", onclick: () => { location.hash = href("compare", { session: [...picked] }); } },
        `Compare${picked.size ? ` ${picked.size}` : ""}`),
      only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start a session"))),
    filters(ctx, chosen, order),
    card("List", { class: "list" }, table({ caption: "Sessions", columns: [pick(draw), ...COLUMNS], rows: sorted(page.items, COLUMNS, sort), id: (one) => one.session,
      sort, onsort: (key) => ask({ by: key, down: sort.by === key && !sort.down ? "1" : "" }), empty: nothing(filtered) }), pager(ctx, page, cursors)));
  await fresh(async () => {
    page = await api.get("sessions", { signal, query: { limit: PAGE, status: chosen, text: query.get("text"), order, cursor: cursors.at(-1) } });
    draw();
  }, { kind: ["SessionStarted", "RoundOpened", "RoundClosed", "RoundEvaluated", "RoundFailed", "SessionEnded"], overview: page.items.some((one) => !hasEnded(one)), pause_ms: 900 });
  if (query.get("search")) ctx.root.querySelector("input[type=search]")?.focus();
}

function pick(draw) {
  return { key: "pick", label: "", class: "tick", cell: ({ session }) => h("input", { type: "checkbox", checked: picked.has(session), "aria-label": `Compare ${session}`,
    disabled: picked.size >= COMPARED_MAX && !picked.has(session),
    onchange: (event) => { event.target.checked ? picked.add(session) : picked.delete(session); draw(); } }) };
}

function filters({ query, ask }, chosen, order) {
  let timer = 0;
  const search = (event) => {
    clearTimeout(timer);
    const text = event.target.value.trim();
    timer = setTimeout(() => ask({ text, cursor: "", search: "" }), 250);
  };
  const toggle = (key) => ask({ status: chosen.includes(key) ? chosen.filter((one) => one !== key) : [...chosen, key], cursor: "" });
  return h("div.filters", { role: "search" },
    h("input", { type: "search", placeholder: "Search by name  /", "aria-label": "Search sessions by name", value: query.get("text") ?? "", oninput: search, key: "search" }),
    h("div.chips", { role: "group", "aria-label": "Status" }, STATUSES.map((key) => h("button", { key, type: "button", "aria-pressed": chosen.includes(key), onclick: () => toggle(key) }, key))),
    h("select", { "aria-label": "Order", value: order, onchange: (event) => ask({ order: event.target.value, cursor: "", by: "" }) },
      h("option", { value: "newest" }, "newest first"), h("option", { value: "oldest" }, "oldest first")));
}

function nothing(filtered) {
  return filtered ? empty("No session is like that", "Take a filter away, or search for another name.", h("a.button", { href: "#/sessions" }, "Show all"))
    : empty("No session yet", "A session trains one model with the clients that are there.", only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start the first")));
}

function pager({ ask }, page, cursors) {
  if (!page.next && !cursors.length) return null;
  return h("div.pager", h("span", `page ${cursors.length + 1}${page.total ? ` of ${Math.ceil(page.total / PAGE)}` : ""}`),
    h("button", { type: "button", disabled: !cursors.length, onclick: () => ask({ cursor: cursors.slice(0, -1) }) }, "Before"),
    h("button", { type: "button", disabled: !page.next, onclick: () => ask({ cursor: [...cursors, page.next] }) }, "Next"));
}
