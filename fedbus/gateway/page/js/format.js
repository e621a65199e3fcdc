// Numbers and times as people read them, in the words of the command line. Moments are seconds since the epoch, and of
// the coordinators' clock, not the browser's: by it deadlines are kept, a laptop that is a minute off counts down rightly.

import { h } from "./dom.js";

export const NONE = "\u2013";

const JUMP_S = 5;
let ahead_s = 0;
export const clock = {
  now: () => Date.now() / 1000 + ahead_s,
  set(at) {
    const off = at - Date.now() / 1000; // what is heard late seems to be behind: the largest counts, until all is otherwise
    if (off > ahead_s || off < ahead_s - JUMP_S) ahead_s = Math.abs(off) < 1 ? 0 : off;
  },
};

/** 12.3 MB, in decimal units as the command line. */
export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(value) < 999.5) return unit === "B" ? `${Math.round(value)} B` : `${short(value)} ${unit}`;
    value /= 1000;
  }
  return `${short(value)} TB`;
}
const short = (value) => String(Number(value.toPrecision(3)));

/** 0.42 ms, 0.31 s, 14 s, 3 min 20 s, 2 h 5 min, 3 days. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (Number.isInteger(s) && s < 120) return `${s} s`;
  if (s < 0.0995) return `${short(s * 1000)} ms`;
  if (s < 9.995) return `${s.toFixed(2)} s`;
  if (s < 119.5) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole < 600 && whole % 60 ? ` ${whole % 60} s` : ""}`;
  if (whole < 2 * 86400) {
    const minutes = Math.floor((whole % 3600) / 60);
    return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  }
  return `${Math.round(whole / 86400)} days`;
}

/** 1,234 and 0.9412: whole numbers with separators, others with four digits that count. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** accuracy 0.941 · loss 0.21 */
export const metrics = (values) => Object.keys(values ?? {}).sort().map((name) => `${name} ${number(values[name])}`).join(" \u00b7 ");

/** "1 client", "3 clients". */
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

/** a, b, c and 5 more */
export const names = (list, most = 5) => list.length > most ? `${list.slice(0, most).join(", ")} and ${number(list.length - most)} more` : list.join(", ");

/** 2026-03-01 14:02:03, of the reader's time zone. */
export function moment(at) {
  if (!at) return NONE;
  const when = new Date(at * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ` +
    `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}`;
}

const rough = (s) => s < 119.5 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;

const says = {
  ago: (at, now) => now - at < 1.5 ? "now" : `${rough(now - at)} ago`,
  since: (at, now) => duration(Math.max(0, Math.round(now - at))),
  left: (at, now) => at - now <= 0 ? "time is up" : `${duration(Math.ceil(at - now))} left`,
};

function ticking(mode, at) {
  if (!at) return NONE;
  return h("time", { "data-mode": mode, "data-at": at, datetime: new Date(at * 1000).toISOString(), title: moment(at) },
    says[mode](at, clock.now()));
}
/** Elements that go on by themselves: "12 s ago", "12 s" (how long since), "14 s left". */
export const ago = (at) => ticking("ago", at);
export const since = (at) => ticking("since", at);
export const left = (at) => ticking("left", at);

setInterval(() => {
  if (document.hidden) return;
  const now = clock.now();
  for (const node of document.querySelectorAll("time[data-mode]")) {
    const text = says[node.dataset.mode](Number(node.dataset.at), now);
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);
