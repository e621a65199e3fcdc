// The journal: every record of every session, newest first, and what comes as it comes.

import { h } from "../dom.js";
import { ago, moment, number } from "../format.js";
import { below, filters, find, pick, press, upto, when } from "../lists.js";
import { KINDS } from "../live.js";
import { only } from "../me.js";
import { clientLink, modelLink, sessionLink } from "../parts.js";
import { href } from "../router.js";
import { badge, empty, heading, toast } from "../ui.js";

const TONES = { SessionStarted: "run", RoundClosed: "ok", ModelPublished: "ok", RoundFailed: "bad", ClientsMoved: "wait", SessionEnded: "off" };
const FRESH_MAX = 500; // of what came while one looks on
const DULL = /(_at|^at|digest|traceparent|trace_id|sequence|seed|^id)$/;
const opened = new Set();
const key = (event) => `${event.session} ${event.id}`;

// What a record says in a line: its short values, by name.
const brief = (data) => Object.entries(data).filter(([name, value]) => (typeof value === "number" || (typeof value === "string" && value)) && !DULL.test(name)).slice(0, 5)
  .map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value.slice(0, 80)}`).join(" \u00b7 ");

function detail({ data, session, at, id }) {
  const round = Number.isInteger(data.round) && data.round > 0 && String(data.round);
  const clients = [data.client, ...(Array.isArray(data.clients) ? data.clients : Object.keys(data.clients ?? {}))].filter((name) => typeof name === "string");
  return h("div.detail", h("p.links", h("span", "session ", sessionLink(session)), round && [h("a", { href: href(["sessions", session], { round }) }, `round ${round}`), h("a", { href: href(["sessions", session, "rounds", round, "trace"]) }, "its trace")],
    typeof data.version === "string" && h("span", "version ", modelLink(data.version)), clients.slice(0, 20).map(clientLink)),
  h("p.note", `${moment(at)}, entry ${id} of the journal`), h("pre", { tabindex: 0 }, JSON.stringify(data, null, 2)));
}

export default async function events(view) {
  const { query, signal } = view;
  const asked = Object.fromEntries(["session", "kind", "text", "since", "until"].map((name) => [name, query.get(name)]));
  const fits = (event) => (!asked.session || event.session === asked.session) && (!asked.kind || event.kind === asked.kind) && (!asked.since || event.at >= asked.since) && (!asked.until || event.at <= asked.until)
    && (!asked.text || JSON.stringify([event.kind, event.session, event.data]).toLowerCase().includes(asked.text.toLowerCase()));
  let found = { items: [] };
  let fresh = [], paused = false, count = 100, frame = 0;

  const item = (event) => h("li", { key: key(event) }, h("details", { open: opened.has(key(event)), ontoggle: ({ target }) => {
    if (target.open === opened.has(key(event))) return;
    target.open ? opened.add(key(event)) : opened.delete(key(event));
    draw();
  } }, h("summary", h("span.at", ago(event.at)), badge(event.kind, TONES[event.kind] ?? "none"), h("bdi", event.session), h("span.note", brief(event.data))), opened.has(key(event)) && detail(event)));

  function draw() {
    frame = 0;
    const known = new Set(found.items.map(key));
    const coming = fresh.filter((event) => !known.has(key(event)));
    const items = paused ? found.items : [...coming, ...found.items];
    view.paint(
      heading("Events", { note: "The journal: what the coordinators decided, and why. Everything else is told from it." },
        press(paused ? `Go on (${number(coming.length)} new)` : "Pause", () => {
          if (!paused) [found, fresh] = [{ ...found, items }, []]; // what is seen now stays
          paused = !paused;
          draw();
        }, { "aria-pressed": String(paused) })),
      filters(find(view, "text", "Search", "in the record"), find(view, "session", "Session", "its whole name", "text"), pick(view, "kind", "Kind", [["", "all"], ...KINDS.map((kind) => [kind, kind])]), when(view, "since", "From"), when(view, "until", "Until")),
      items.length ? h("ol.events", items.map(item)) : Object.values(asked).some(Boolean) ? empty("No event fits", "", h("a.button", { href: "#/events" }, "Show all"))
        : empty("The journal is empty", "Its first record is written when a session starts.", only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start a session"))),
      below({ ...found, items, total: null }, () => { count += 200; load().catch(toast); }));
  }
  async function load() {
    found = await upto("events", { ...asked, order: "newest" }, count, signal);
    draw();
  }
  view.live.on({}, (event) => {
    if (!fits(event)) return;
    fresh = [event, ...fresh].slice(0, FRESH_MAX);
    frame ||= requestAnimationFrame(draw);
  }, signal);
  await view.fresh(load, { events: false });
}
