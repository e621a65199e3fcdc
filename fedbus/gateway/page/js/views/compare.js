// Several sessions side by side: one chart for each metric, what they were told differently, and what came of it.

import { chart } from "../chart.js";
import { h } from "../dom.js";
import { bytes, clock, duration, number } from "../format.js";
import { filters, find, upto } from "../lists.js";
import { only } from "../me.js";
import { modelLink, sessionLink, status } from "../parts.js";
import { card, empty, failure, heading, table, tabs } from "../ui.js";

const MOST = 10;
const AXES = [["round", "by round"], ["duration", "by time"], ["bytes", "by bytes moved"]];
const LESS_IS_BETTER = /loss|error|mae|mse|perplex|nll|divergence/i;

// The choice: sessions with boxes; what is chosen stands in the address.
function choice(view, chosen, { items, more }, open) {
  const box = (row, on) => h("input", { type: "checkbox", checked: on, disabled: chosen.length >= MOST && !on, onchange: () => view.ask({ session: on ? chosen.filter((each) => each !== row.session) : [...chosen, row.session] }) });
  const gone = chosen.filter((name) => !items.some((row) => row.session === name));
  const item = (row) => h("li", { key: row.session }, h("label.check", box(row, chosen.includes(row.session)), h("bdi", row.session), status(row), h("span.muted", `${row.strategy}, ${row.rounds_closed} of ${row.rounds} rounds`)));
  return h("details.card.choice", { open, key: "choice" }, h("summary", chosen.length ? `${chosen.length} of at most ${MOST} sessions` : "Choose two sessions or more"), filters(find(view, "text", "Search", "name of a session")),
    h("ul.boxes", gone.map((session) => h("li", { key: session }, h("label.check", box({ session }, true), h("bdi", session)))), items.map(item)),
    items.length ? null : h("p.empty-line", "No session has this name."), more && h("p.note", "Search to find older ones."));
}

// Bytes moved up to each round, by session.
const moved = async ({ api, signal }, names) => new Map(await Promise.all(names.map(async (name) => {
  let sum = 0;
  const rounds = (await api.all(["sessions", name, "rounds"], { signal })).sort((a, b) => a.round - b.round);
  return [name, new Map(rounds.map((row) => [row.round, sum += row.bytes_up + row.bytes_down]))];
})));

function results({ sessions, curves }) {
  const evaluated = curves.filter((curve) => curve.of === "evaluate");
  const metric = (name) => ({ key: `m ${name}`, label: name, num: true, title: "newest, and best of all rounds", cell: (row) => {
    const values = evaluated.find((curve) => curve.session === row.session && curve.metric === name)?.values.filter((value) => value !== null) ?? [];
    const best = values.reduce((one, other) => (LESS_IS_BETTER.test(name) ? other < one : other > one) ? other : one, values[0]);
    return values.length > 0 && [number(values.at(-1)), h("span.note", ` best ${number(best)}`)];
  } });
  return table({ caption: "What came of each", rows: sessions, id: (row) => row.session, columns: [
    { key: "session", label: "Session", head: true, cell: (row) => sessionLink(row.session) }, { key: "status", label: "Status", cell: status },
    ...[...new Set(evaluated.map((curve) => curve.metric))].sort().map(metric),
    { key: "rounds", label: "Rounds", num: true, cell: (row) => `${number(row.rounds_closed)} / ${number(row.rounds)}` },
    { key: "took", label: "Duration", num: true, cell: (row) => row.started_at && duration((row.ended_at ?? clock.now()) - row.started_at) },
    { key: "bytes", label: "Moved", num: true, cell: (row) => bytes(row.bytes_up + row.bytes_down) },
    { key: "version", label: "Best version", cell: (row) => modelLink(row.best_version || row.version) }] });
}

const settings = ({ sessions, settings: rows }) => table({ caption: "Settings by session", rows, id: (row) => row.setting, empty: "All of their settings are the same.", columns: [
  { key: "setting", label: "Setting", head: true, cell: (row) => h("code", row.setting) },
  ...sessions.map(({ session }, nth) => ({ key: session, label: h("bdi", session), cell: ({ values }) => h("code.break", typeof values[nth] === "string" ? values[nth] : JSON.stringify(values[nth]) ?? "") }))] });

export default async function compare(view) {
  const { query, signal } = view;
  const chosen = [...new Set(query.getAll("session"))].slice(0, MOST);
  const by = query.get("by") || "round";
  const head = () => heading("Compare", { note: "Sessions in the same charts, with what was set differently." });
  const found = await upto("sessions", { text: query.get("text") }, 50, signal);
  if (chosen.length < 2) {
    return view.paint(head(), found.items.length || query.get("text") || chosen.length ? [choice(view, chosen, found, true), chosen.length > 0 && h("p.note", { key: "hint" }, "One more, and they are compared.")]
      : empty("There is nothing to compare", "It takes two sessions, of any strategy, running or ended.", only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start a session"))));
  }
  const charts = new Map();
  const plot = (title, series) => h("section.card", { key: `${by} ${title}`, "aria-label": title }, h("div", { keep: true, made: (node) => charts.set(title, chart(node, { title, x: { label: by === "duration" ? "after" : by, kind: by }, height: 260, series }, signal)) }));
  await view.fresh(async () => {
    let all;
    try {
      all = await view.api.get("compare", { query: { session: chosen }, signal });
    } catch (error) { // one of them may be gone: the choice stays, to change it
      if (error.status !== 404) throw error;
      return view.paint(head(), choice(view, chosen, found, true), failure(error));
    }
    const sums = by === "bytes" && await moved(view, chosen);
    const began = new Map(all.sessions.map((row) => [row.session, row.started_at]));
    const x = ({ session, rounds, at }, nth) => by === "bytes" ? sums.get(session)?.get(rounds[nth]) : by === "duration" ? at[nth] - began.get(session) : rounds[nth];
    const drawings = new Map();
    for (const curve of all.curves) {
      const title = `${curve.metric}${curve.of === "train" ? " (while training)" : ""}`;
      const nth = chosen.indexOf(curve.session); // the same look in every chart
      drawings.set(title, [...(drawings.get(title) ?? []), { name: curve.session, nth, points: curve.values.map((value, at) => [x(curve, at), value]) }]);
    }
    view.paint(head(), choice(view, chosen, found, query.has("text")), drawings.size ? [tabs("What the charts run over", AXES, by, (key) => view.ask({ by: key })),
      h("div.charts#tab-panel", { key: "charts", role: "tabpanel", "aria-labelledby": `tab-${by}` }, [...drawings].map((each) => plot(...each)))] : h("p.note", "None of them has reported a metric yet."),
    card("Results", {}, results(all)), card("Settings that differ", {}, settings(all)));
    for (const [title, series] of drawings) charts.get(title)?.update({ series });
  }, { kind: ["RoundClosed", "RoundEvaluated", "SessionEnded"], pause_ms: 1000 });
}
