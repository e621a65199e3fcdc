// Rounds as bars in their order, and the clients of one round as bars of where their time went.

import { h } from "./dom.js";
import { bytes, duration, metrics, moment, names, number } from "./format.js";
import { clientLink } from "./parts.js";
import { badge, table } from "./ui.js";

export const ROUNDS_SHOWN = 150;
const CLIENTS_SHOWN = 40;
const SEGMENTS = [["wait_s", "wait", "waiting"], ["fetch_s", "fetch", "download"], ["train_s", "train", "training"], ["upload_s", "upload", "upload"]];

/**
 * A bar for each round: its height how long it took, links to the round. `rounds`: those that are shown, in order;
 * `chosen`: its number; `address(round)`; `now`: the gateway's time, for the one that is open.
 */
export function roundBars(rounds, chosen, address, now) {
  const took = (one) => one.seconds ?? Math.max(0, (one.closed_at ?? now) - one.opened_at);
  const most = Math.max(0.001, ...rounds.map(took));
  return h("div.rounds", { role: "region", tabindex: 0, "aria-label": "Rounds, as bars" },
    h("span.axis", { "aria-hidden": true }, duration(most)),
    h("ol.round-bars", rounds.map((one) => {
      const left = Object.keys(one.not_counted).length || one.refused;
      const says = [`round ${one.round} ${one.state}`, duration(took(one)), `${number(one.counted)} of ${number(one.asked)} updates`, left && `${number(left)} not counted`, one.why].filter(Boolean).join(", ");
      return h("li", { key: `${one.round}-${one.state === "failed" ? one.opened_at : ""}` }, h("a", { href: address(one.round), class: `round-bar is-${one.state}`, title: says, "aria-label": says, "aria-current": one.round === chosen ? "true" : null },
        left > 0 && h("span.flag", { "aria-hidden": true }, "!"), h("span.bar", { css: { height: `${Math.max(3, 100 * took(one) / most).toFixed(1)}%` } }),
        h("span.tick-label", { "aria-hidden": true }, one.round % step(rounds.length) === 0 || one.round === chosen ? number(one.round) : "")));
    })));
}

const step = (count) => [1, 2, 5, 10, 20, 25].find((one) => count / one <= 32) ?? 25;

/** How many rounds have which outcome, in words for the legend. */
export const roundMarks = () => h("ul.marks", [["ok", "closed"], ["bad", "failed"], ["run", "open"]].map(([kind, text]) => h("li", { key: kind }, h(`i.bar-${kind}`, { "aria-hidden": true }), text)),
  h("li", h("b.flag", { "aria-hidden": true }, "!"), "somebody was not counted"));

/** The clients of a round, slowest first; `state`: {all, only}: what the reader has opened. */
export function clientBars(detail, state, now, redraw) {
  const end = detail.closed_at ?? now;
  const came = (one) => Number(one.seconds !== null);
  const listed = detail.closed_at ? detail.clients : [...detail.clients].sort((one, other) => came(other) - came(one));
  const shown = listed.filter((one) => !state.only || one.outcome === state.only);
  const total = (one) => one.seconds ?? sum(one) ?? (detail.fixed_at ?? end) - detail.opened_at;
  const most = Math.max(0.001, ...detail.clients.map(total));
  const rows = state.all ? shown : shown.slice(0, CLIENTS_SHOWN);
  return [
    outcomes(detail, state, redraw),
    h("ul.marks", SEGMENTS.map(([, key, text]) => h("li", { key }, h(`i.seg-${key}`, { "aria-hidden": true }), text)), h("li", { key: "unknown" }, h("i.seg-unknown", { "aria-hidden": true }), "not said"), h("li", { key: "none" }, h("i.seg-none", { "aria-hidden": true }), "nothing came")),
    h("ol.client-bars", h("li.client-axis", { key: "axis", "aria-hidden": true }, h("span"), h("span.scale", [0, 0.25, 0.5, 0.75, 1].map((part) => h("span", part ? duration(most * part) : "0"))), h("span")),
      rows.map((one) => clientBar(one, total(one), most))),
    shown.length > rows.length && h("p", h("button", { type: "button", onclick: () => { state.all = true; redraw(); } }, `Show all ${number(shown.length)}`),
      h("span.muted", ` ${number(rows.length)} are seen, the slowest first`)),
  ];
}

const sum = (one) => SEGMENTS.some(([key]) => one[key] !== null) ? SEGMENTS.reduce((all, [key]) => all + (one[key] ?? 0), 0) : null;

function outcomes(detail, state, redraw) {
  const found = {};
  for (const one of detail.clients) found[one.outcome] = (found[one.outcome] ?? 0) + 1;
  const kinds = Object.keys(found).sort((one, other) => found[other] - found[one]);
  if (kinds.length < 2) return null;
  return h("div.chips", { role: "group", "aria-label": "Outcome" }, kinds.map((kind) => h("button", { key: kind, type: "button", "aria-pressed": state.only === kind,
    onclick: () => { state.only = state.only === kind ? "" : kind; redraw(); } }, kind, h("span.muted", number(found[kind])))));
}

function clientBar(one, total, most) {
  const said = sum(one);
  const width = (seconds) => ({ width: `${(100 * seconds / most).toFixed(2)}%` });
  const came = one.seconds !== null || said !== null;
  const rest = came && said !== null ? Math.max(0, (one.seconds ?? said) - said) : total;
  const parts = said === null ? [] : SEGMENTS.filter(([key]) => one[key]).map(([key, kind, text]) => h(`span.seg.seg-${kind}`, { key, css: width(one[key]), title: `${text} ${duration(one[key])}` }));
  const times = said === null ? "" : SEGMENTS.filter(([key]) => one[key] !== null).map(([key, , text]) => `${text} ${duration(one[key])}`).join(", ");
  const why = [one.what, one.by && one.by !== one.client && `by ${one.by}`, one.stale > 0 && `made for ${number(one.stale)} rounds ago`, one.moves > 0 && `moved ${number(one.moves)} times`].filter(Boolean).join(", ");
  const odd = !["counted", "accepted"].includes(one.outcome) || one.moves > 0;
  return h("li.client-bar", { key: one.client, class: odd ? "odd" : null },
    h("span.client-name", { title: one.client }, clientLink(one.client)),
    h("span.lane", { role: "img", "aria-label": `${came ? duration(total) : "nothing came"}${times ? `: ${times}` : ""}`, title: `${duration(came ? total : null)}${times ? `: ${times}` : ""}` }, parts,
      rest > most * 0.004 && h("span.seg", { class: came ? "seg-unknown" : "seg-none", css: width(rest) })),
    h("span.client-says", h("span.num", came ? duration(total) : ""), odd && badge(one.outcome), odd && why && h("span.because", { title: why }, why)));
}

/** The same as a table, with all numbers. */
export function clientTable(detail) {
  const seconds = (key, label) => ({ key, label, num: true, cell: (one) => duration(one[key]) });
  return table({ caption: `Clients of round ${detail.round}`, dense: true, rows: detail.clients, id: (one) => one.client, columns: [
    { key: "client", label: "Client", head: true, cell: (one) => clientLink(one.client) }, { key: "outcome", label: "Outcome", cell: (one) => badge(one.outcome) },
    seconds("seconds", "After"), ...SEGMENTS.map(([key, , text]) => seconds(key, text[0].toUpperCase() + text.slice(1))),
    { key: "combiner", label: "Combiner" }, { key: "weight", label: "Weight", num: true, cell: (one) => one.weight ? number(one.weight) : null },
    { key: "norm", label: "Norm", num: true, title: "L2 norm of the update", cell: (one) => one.norm === null ? null : number(one.norm) },
    { key: "up", label: "Up", num: true, cell: (one) => one.nbytes ? bytes(one.nbytes) : null }, { key: "down", label: "Down", num: true, cell: (one) => one.fetched ? bytes(one.fetched) : null },
    { key: "metrics", label: "Metrics", cell: (one) => metrics(one.metrics) }, { key: "what", label: "Why", cell: (one) => [one.what, one.by && ` (${one.by})`] },
  ] });
}

/** Who was not counted in which round, those of one reason together. */
export function refusals(rounds) {
  const found = new Map();
  for (const round of rounds) {
    for (const [client, reason] of Object.entries(round.not_counted)) {
      if (!found.has(reason)) found.set(reason, { reason, clients: new Set(), rounds: [], times: 0 });
      const one = found.get(reason);
      one.clients.add(client);
      if (one.rounds.at(-1) !== round.round) one.rounds.push(round.round);
      one.times += 1;
    }
  }
  return [...found.values()].sort((one, other) => other.times - one.times);
}

export const spans = (list) => names(list.map(number), 6);
export const when = (at) => at ? h("time", { datetime: new Date(at * 1000).toISOString() }, moment(at)) : null;

