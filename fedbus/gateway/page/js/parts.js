// What several views show of sessions: how far, and what is waited for, on whom, until when, and what happens then.

import { h } from "./dom.js";
import { clock, count, left, number, since } from "./format.js";
import { href } from "./router.js";
import { badge, meter } from "./ui.js";

const NAMED = 4;
export const ENDED = ["completed", "stopped", "failed", "refused"];
export const hasEnded = (session) => ENDED.includes(session.status);

export const sessionLink = (name) => h("a", { href: href(["sessions", name]) }, h("bdi", name));
export const modelLink = (name) => name ? h("a", { href: href(["models", name]) }, h("bdi", name)) : null;
export const clientLink = (name) => h("a", { href: href(["clients", name]) }, h("bdi", name));

/** Rounds that are closed of all: a bar with its numbers. */
export function progress(session) {
  const share = session.rounds ? session.rounds_closed / session.rounds : Number(hasEnded(session));
  const kind = { completed: "ok", failed: "bad", refused: "bad", stopped: "off", waiting: "wait" }[session.status] ?? "";
  const text = `${number(session.rounds_closed)} of ${number(session.rounds)}`;
  return h("span.progress", meter(share, `${text} rounds are closed`, kind), h("span.num", { "aria-hidden": true }, text));
}

/** A wait: what, whom, a clock that runs out, and what comes then. `named`: say the session too. */
export function waitRow(wait, named = true) {
  const whole = wait.until_at - wait.since_at;
  const gone = clock.now() - wait.since_at;
  return h("li.wait-row", { key: `${wait.session}/${wait.round}/${wait.since_at}` },
    h("div.wait-what", h("p", named && [sessionLink(wait.session), " "], wait.round > 0 && h("span.muted", `round ${number(wait.round)} `),
      h("span.break", wait.what)), whom(wait)),
    h("div.wait-until", h("p", h("strong", left(wait.until_at)), h("span.muted", ", waiting ", since(wait.since_at))),
      whole > 0 && meter(gone / whole, `${Math.round(100 * Math.min(1, gone / whole))} % of the time is over`, gone / whole > 0.8 ? "wait" : "off"),
      h("p.then", h("span.muted", "then "), wait.then)));
}

function whom(wait) {
  const names = wait.on.length ? wait.on : Object.keys(wait.doing);
  if (!names.length) return null;
  const shown = names.slice(0, NAMED).map((name) => {
    const since_at = wait.away[name];
    const what = since_at === undefined ? wait.doing[name] : since_at ? ["not connected for ", since(since_at)] : "not connected";
    return h("li.chip", { key: name, class: since_at === undefined ? null : "away" }, h("bdi.clip", { title: name }, name), what && h("span.muted", what));
  });
  const missing = Math.max(wait.on.length ? wait.missing : 0, names.length);
  const more = missing - shown.length;
  return h("ul.whom", { "aria-label": wait.on.length ? "waited for" : "there" }, !wait.on.length && h("li.muted", "there:"), shown,
    more > 0 && h("li.muted", `and ${count(more, "more", "more")}`));
}

export const waitList = (waits, named) => h("ul.waits", waits.map((wait) => waitRow(wait, named)));

export const status = (session) => badge(session.status);

/** One line of a text, all of it on hover: rows stay of one height. */
export function line(text) {
  return text ? h("span.line", { title: text }, h("bdi", text)) : null;
}
