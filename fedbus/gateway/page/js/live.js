// What happens, as it happens: one EventSource for the whole page. It goes on behind the last event it saw, after a
// break, on another gateway, or when its tab comes back into view (a browser allows six connections: hidden tabs give
// theirs back).

import { url } from "./api.js";
import { clock } from "./format.js";

export const KINDS = ["SessionStarted", "RoundOpened", "UpdatesRecorded", "ClientsMoved", "RoundClosing", "RoundFailed",
  "ModelPublished", "RoundClosed", "EvaluationOpened", "RoundEvaluated", "SessionEnded"];
const HIDDEN_MS = 60_000;
const RETRY_MS_MAX = 8_000;

let source = null;
let last = "";
let tries = 0;
let timer = 0;
const listeners = new Set();

export const live = {
  status: "connecting", // connecting | live | reconnecting | gone
  overview: null,       // the newest OverviewView, null before the first
  /** Call `call(event)` with each EventView that fits; ends with the signal. */
  on({ session, kind } = {}, call, signal) {
    const kinds = kind === undefined ? null : new Set([].concat(kind));
    add("event", (event) => {
      if ((session === undefined || event.session === session) && (!kinds || kinds.has(event.kind))) call(event);
    }, signal);
  },
  /** Call `call(overview)` now, if there is one, and at each change. */
  onOverview(call, signal) {
    add("overview", call, signal);
    if (live.overview) call(live.overview);
  },
  /** Call `call(status)` now and at each change. */
  onStatus(call, signal) {
    add("status", call, signal);
    call(live.status);
  },
  /** Call `call()` when it is live again after a break: what is not in the journal (presence) may have changed. */
  onResume(call, signal) {
    add("resume", call, signal);
  },
  start,
  /** Hear no more, until `start`. */
  stop() {
    wanted = false;
    close();
    tries = 0;
    last = "";
    live.overview = null;
    become("connecting");
  },
  refused: () => {}, // called when the stream was answered with something else, as to somebody who is logged out
};

function add(what, call, signal) {
  if (signal?.aborted) return;
  const one = { what, call };
  listeners.add(one);
  signal?.addEventListener("abort", () => listeners.delete(one), { once: true });
}

function tell(what, value) {
  for (const one of [...listeners]) {
    if (one.what !== what) continue;
    try { one.call(value); } catch (error) { console.error(error); }
  }
}

function become(status) {
  if (live.status === status) return;
  const before = live.status;
  live.status = status;
  tell("status", status);
  if (status === "live" && before !== "connecting") tell("resume");
}

let wanted = null; // whether to hear; null before the first start
function start() {
  const first = wanted === null;
  wanted = true;
  open();
  if (!first) return;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(close, HIDDEN_MS);
    else if (!source && wanted) open();
  });
  window.addEventListener("online", () => { if (wanted && source?.readyState !== 1) open(); });
}
let hidden = 0;

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function open() {
  close();
  source = new EventSource(url("events", { after: last }));
  source.onopen = () => { tries = 0; become("live"); };
  // The browser's own retries give up at an answer that is no stream (503 while a gateway drains): these do not.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) live.refused();
    close();
    if (!wanted) return;
    tries += 1;
    become(tries > 2 ? "gone" : "reconnecting");
    timer = setTimeout(open, Math.min(RETRY_MS_MAX, 300 * 2 ** tries) * (0.75 + Math.random() / 2));
  };
  for (const kind of KINDS) source.addEventListener(kind, heard);
  // The journal was written again: what was heard no longer holds, and views read anew when it is live again.
  source.addEventListener("reset", () => {
    last = "";
    become("reconnecting");
    open();
  });
  source.addEventListener("overview", (event) => {
    if (event.lastEventId) last = event.lastEventId; // who has heard nothing yet also goes on from where it began
    live.overview = JSON.parse(event.data);
    clock.set(live.overview.at);
    tell("overview", live.overview);
  });
}

function heard(event) {
  if (event.lastEventId) last = event.lastEventId;
  tell("event", JSON.parse(event.data));
}
