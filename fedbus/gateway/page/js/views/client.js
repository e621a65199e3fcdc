// One client: what it is, when it was heard of, and what became of each of its updates.

import { chart } from "../chart.js";
import { h } from "../dom.js";
import { ago, bytes, metrics, moment, number, since } from "../format.js";
import { href } from "../router.js";
import { badge, card, facts, heading, table } from "../ui.js";
import { chips } from "./clients.js";

const COLUMNS = [
  { key: "round", label: "Round", head: true, cell: (row) => h("a", { href: href(["sessions", row.session], { round: row.round }) }, h("bdi", row.session), ` ${row.round}`) },
  { key: "outcome", label: "Outcome", cell: (row) => badge(row.outcome) },
  { key: "at", label: "When", narrow: false, cell: (row) => h("span", { title: moment(row.at) }, ago(row.at)) },
  { key: "weight", label: "Weight", num: true, cell: (row) => row.weight ? number(row.weight) : null },
  { key: "bytes", label: "Size", num: true, narrow: false, cell: (row) => row.nbytes ? bytes(row.nbytes) : null },
  { key: "metrics", label: "Its metrics", class: "said", cell: (row) => metrics(row.metrics) },
  { key: "what", label: "Why", class: "said", cell: (row) => row.what },
];

// What it gave, by session; a round that did not count is a gap.
function given(history, value) {
  const lines = new Map();
  for (const row of [...history].reverse()) {
    if (!lines.has(row.session)) lines.set(row.session, { name: row.session, points: [] });
    lines.get(row.session).points.push([row.at, value(row)]);
  }
  return [...lines.values()].slice(-10);
}

export default async function client(view) {
  const { params: { client: name }, api, signal } = view;
  const charts = new Map();
  const plot = (title, series) => h("div", { key: title, keep: true, made: (node) => charts.set(title, chart(node, { title, x: { label: "at", kind: "time" }, series, height: 180 }, signal)) });
  await view.fresh(async () => {
    const found = await api.get(["clients", name], { signal });
    const lines = new Map([["weight of its counted updates", given(found.history, (row) => row.outcome === "counted" ? row.weight : null)]]);
    for (const metric of [...new Set(found.history.flatMap((row) => Object.keys(row.metrics)))].sort().slice(0, 5)) {
      lines.set(`${metric}, as it reports`, given(found.history, (row) => row.metrics[metric] ?? null));
    }
    view.paint(
      heading(h("bdi", name), { back: h("a", { href: "#/clients" }, "Clients"), badges: badge(found.online ? "online" : "offline") }),
      card("Health", {}, facts([
        ["doing", found.doing], ["there since", found.online && found.since_at && since(found.since_at)], ["last seen", found.last_at && ago(found.last_at)],
        ["version", found.version], ["crowd", found.crowd && h("bdi", found.crowd)], ["attributes", chips(found.attributes)],
        ["sessions", number(found.sessions)], ["updates counted", `${number(found.rounds_counted)} of ${number(found.rounds_asked)} rounds`],
        ["refused", found.rounds_refused > 0 && number(found.rounds_refused)], ["weight given", number(Math.round(found.weight))],
        ["moved", `${bytes(found.bytes_up)} up, ${bytes(found.bytes_down)} down`]])),
      found.history.length > 0 && card("Contributions", {}, h("div.charts", [...lines].map(([title, series]) => plot(title, series)))),
      card("History", { aside: h("a", { href: href(["events"], { text: name }) }, "Its events") },
        table({ caption: "What became of its updates, newest first", columns: COLUMNS, rows: found.history, id: (row) => `${row.session} ${row.round}`,
          empty: "It has not been asked for an update yet." })));
    for (const [title, series] of lines) charts.get(title)?.update({ series });
  }, { kind: ["RoundClosed", "UpdatesRecorded"], overview: true, pause_ms: 2000 });
}
