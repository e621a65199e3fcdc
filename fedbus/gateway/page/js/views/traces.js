// Which round's trace to look at.

import { h } from "../dom.js";
import { ago, bytes, duration } from "../format.js";
import { filters, pick, upto } from "../lists.js";
import { only } from "../me.js";
import { sessionLink } from "../parts.js";
import { href } from "../router.js";
import { badge, card, empty, heading, meter, table } from "../ui.js";

export default async function traces(view) {
  const { query, signal } = view;
  const head = () => heading("Traces", { note: "Where a round's time went: every span that the roles told of it, on one line of time." });
  await view.fresh(async () => {
    const { items } = await upto("sessions", {}, 100, signal);
    const session = query.get("session") || items[0]?.session;
    if (!session) return view.paint(head(), empty("No round has been trained yet", "A trace begins with a round, and a round with a session.", only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start a session"))));
    const { items: rows } = await upto(["sessions", session, "rounds"], { order: "newest" }, 200, signal);
    const longest = Math.max(...rows.map((row) => row.seconds ?? 0), 1e-9);
    const others = items.filter((row) => row.session !== session).map((row) => [row.session, row.session]);
    view.paint(head(), filters(pick(view, "session", "Session", [[query.get("session") ? session : "", session], ...others])),
      card("Rounds", { aside: sessionLink(session) }, table({ caption: "Newest first", rows, id: (row) => row.round, empty: "It has no round yet.", columns: [
        { key: "round", label: "Round", head: true, cell: (row) => h("a", { href: href(["sessions", session, "rounds", String(row.round), "trace"]) }, `Round ${row.round}`) },
        { key: "state", label: "State", cell: (row) => badge(row.state) },
        { key: "took", label: "Took", cell: (row) => row.seconds !== null && h("span.share", `${duration(row.seconds)} `, meter(row.seconds / longest, duration(row.seconds))) },
        { key: "counted", label: "Counted", num: true, cell: (row) => `${row.counted} of ${row.asked}` },
        { key: "bytes", label: "Moved", num: true, narrow: false, cell: (row) => bytes(row.bytes_up + row.bytes_down) },
        { key: "at", label: "Began", narrow: false, cell: (row) => ago(row.opened_at) }] })));
  }, { kind: ["RoundOpened", "RoundClosed", "SessionStarted"], pause_ms: 1000 });
}
