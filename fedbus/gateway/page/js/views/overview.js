// Everything at a glance: who is there, how full the broker is, what waits on whom, and which sessions run.

import { h } from "../dom.js";
import { ago, bytes, count, duration, metrics, number } from "../format.js";
import { only } from "../me.js";
import { href } from "../router.js";
import { line, progress, sessionLink, status, waitList } from "../parts.js";
import { badge, card, empty, heading, meter, table } from "../ui.js";

const BOXES_MAX = 8;
const SQUARES_MAX = 240;
const RUNNING_MAX = 50;
const ACTIVE = ["starting", "waiting", "running"];
/** What clients say that they do, in the order of a round; anything else is "other". */
const DOINGS = ["training", "sending", "evaluating", "holding", "other", "idle"];
const MEANS = { holding: "their update is sent, and kept until its round is closed" };

export default async function overview({ live, api, signal, paint, fresh }) {
  let now = live.overview ?? await api.get("overview", { signal });
  let sessions = [];
  const draw = () => paint(
    heading("Overview", { note: `workspace ${now.workspace} \u00b7 fedbus ${now.version}` },
      only("session.start", h("a.button.primary", { href: "#/sessions/new" }, "Start a session"))),
    troubles(now), figures(now), topology(now), waiting(now), running(now, sessions));
  live.onOverview((newer) => { now = newer; draw(); }, signal);
  await fresh(async () => {
    const page = await api.get("sessions", { query: { status: ACTIVE, limit: RUNNING_MAX }, signal });
    sessions = page.items;
    draw();
  }, { kind: ["SessionStarted", "RoundOpened", "RoundClosed", "RoundEvaluated", "RoundFailed", "SessionEnded"], pause_ms: 900 });
}

function troubles(now) {
  const said = [];
  if (!now.broker.connected) said.push(["The broker does not answer.", "What is seen here is as it was known last; sessions go on where they were when it is back."]);
  else if (!now.coordinator_answers) {
    said.push([now.coordinators.length ? "No coordinator answers." : "There is no coordinator.",
      "Rounds stand still until one comes, and nothing is lost: fedbus coordinator, or fedbus up."]);
  } else if (!now.combiners.length) said.push(["There is no combiner.", "Updates cannot be folded until one comes: fedbus combiner."]);
  for (const stream of now.broker.streams) {
    if (stream.bytes_max && stream.nbytes > 0.9 * stream.bytes_max) {
      said.push([`The broker's store ${short(stream.name)} is ${Math.round(100 * stream.nbytes / stream.bytes_max)} % full.`, "Rounds may have to wait for room."]);
    }
  }
  return said.length > 0 && h("div.notice", { key: "troubles", role: "status" }, said.map(([what, then]) => h("p", h("strong", what), " ", then)));
}

function figures(now) {
  const of = (key) => now.sessions[key] ?? 0;
  const figure = (label, value, address, kind = "") => h("li", { key: label }, h("a", { href: address, class: kind },
    h("span.figure", number(value)), h("span.muted", label)));
  return h("ul.figures", { key: "figures", "aria-label": "In figures" },
    figure("running", of("running") + of("starting"), "#/sessions?status=running&status=starting"),
    figure("waiting", of("waiting"), "#/sessions?status=waiting", of("waiting") ? "is-wait" : ""),
    figure("completed", of("completed"), "#/sessions?status=completed"),
    figure("stopped", of("stopped"), "#/sessions?status=stopped"),
    figure("failed", of("failed") + of("refused"), "#/sessions?status=failed&status=refused", of("failed") + of("refused") ? "is-bad" : ""),
    figure("clients there", now.clients, "#/clients"), figure("model versions", now.models, "#/models"));
}

const short = (name) => name.split("-").pop();

function topology(now) {
  const busy = doings(now);
  return card("Who is there", { key: "topology", class: "topology" },
    h("div.roles",
      role("Gateways", now.gateways, (peer) => ["answers this page", since(peer)], now),
      role("Coordinators", now.coordinators, (peer) => [peer.doing.replace(/^leads /, "") || (peer.leads ? "decides" : "stands by"), since(peer)], now),
      role("Combiners", now.combiners, (peer) => [
        peer.clients ? `${number(peer.updates)} of ${number(peer.clients)} updates, ${bytes(peer.nbytes)}` : peer.doing || "idle",
        meter(peer.clients ? peer.updates / peer.clients : 0, `${peer.updates} of ${peer.clients} updates are here`)], now, combined(now))),
    broker(now),
    archive(now),
    clients(now, busy));
}

const since = (peer) => h("span.muted", "heard ", ago(peer.seen_at));

function combined(now) {
  return now.combiners.some((one) => one.clients > 0);
}

/** The boxes of one role, over the bus; a link is as thick as there are clients that send to it. */
function role(name, peers, says, now, flows = false) {
  const most = Math.max(1, ...peers.map((peer) => peer.clients));
  const boxes = peers.slice(0, BOXES_MAX).map((peer) => h("li.peer", { key: peer.name, class: peer.leads ? "leads" : null,
    css: { "--thick": `${peer.clients ? 2 + Math.round(6 * peer.clients / most) : 1}px` }, "data-flow": flows && peer.clients > peer.updates ? "up" : null },
    h("p.peer-name", h("bdi", { title: `${peer.name}, fedbus ${peer.version}` }, peer.name), peer.leads && [" ", badge("leads", "run")]),
    h("div.peer-says", says(peer)),
    Object.keys(peer.attributes).length > 0 && h("p.muted.small", Object.entries(peer.attributes).map(([key, value]) => `${key} ${value}`).join(", "))));
  return h("div.role", { key: name, class: name.toLowerCase() }, h("h3", `${name} `, h("span.muted", number(peers.length))),
    h("ul.peers", boxes, peers.length > BOXES_MAX && h("li.peer.more", `and ${number(peers.length - BOXES_MAX)} more`),
      !peers.length && h("li.peer.none", "none")));
}

function broker({ broker: found }) {
  const about = found.connected ? [found.version && `nats-server ${found.version}`, found.round_trip_s !== null && `answers in ${duration(found.round_trip_s)}`,
    found.payload_max > 0 && `messages up to ${bytes(found.payload_max)}`].filter(Boolean).join(" \u00b7 ") : "not connected";
  return h("div.broker", { key: "broker", class: found.connected ? null : "gone" },
    h("p", h("strong", "Broker "), h("span.muted", about)),
    found.streams.length > 0 && h("ul.streams", { "aria-label": "Streams" }, found.streams.map((stream) => {
      const share = stream.bytes_max ? stream.nbytes / stream.bytes_max : null;
      const text = `${short(stream.name)}: ${count(stream.messages, "message")}, ${bytes(stream.nbytes)}${stream.bytes_max ? ` of ${bytes(stream.bytes_max)}` : ""}, in ${stream.storage === "file" ? "files" : "memory"}`;
      return h("li", { key: stream.name, title: text }, h("span", short(stream.name)), h("span.muted", bytes(stream.nbytes)),
        share === null ? null : meter(share, text, share > 0.9 ? "bad" : share > 0.7 ? "wait" : "off"));
    })));
}

/** The store behind the bus: how far it has copies of what was published. */
function archive({ archive: store }) {
  if (!store) return null;
  const lost = Object.keys(store.refused).length;
  return h("p.muted", { key: "archive" }, h("strong", "Store "), h("bdi", store.store), `: ${count(store.archived, "version")} archived`,
    store.waiting > 0 && [`, ${number(store.waiting)} to come (${bytes(store.waiting_bytes)}), the first since `, ago(store.since_at)],
    lost > 0 && `, ${number(lost)} cannot be`, store.error && [h("br"), badge("fails", "bad"), ` ${store.error}`]);
}

/** How many clients do what, from "training for a, sending for b" to its first word. */
function doings(now) {
  const found = Object.fromEntries(DOINGS.map((key) => [key, 0]));
  let known = 0;
  for (const [text, n] of Object.entries(now.clients_doing)) {
    const word = text.replace(/^\d+ /, "").split(" ")[0].replace(",", "") || "idle";
    found[word in found ? word : "other"] += n;
    known += n;
  }
  found.idle += Math.max(0, now.clients - known);
  return found;
}

function clients(now, found) {
  const per = Math.max(1, Math.ceil(now.clients / SQUARES_MAX));
  const there = DOINGS.filter((key) => found[key] > 0);
  const squares = there.flatMap((key) => Array.from({ length: Math.max(1, Math.round(found[key] / per)) }, () => key));
  return h("div.crowd", { key: "clients", "data-flow": found.sending > 0 ? "up" : null, class: now.clients ? null : "none" },
    h("h3", h("a", { href: "#/clients" }, "Clients"), " ", h("span.muted", number(now.clients))),
    now.clients === 0 ? h("p.muted", "None is there. On a data owner's machine: ", h("code", "fedbus client run MODULE:APP")) : [
      h("div.squares", { class: squares.length <= 48 ? "few" : null, "aria-hidden": true }, squares.map((key) => h("i", { class: `is-${key}` }))),
      h("ul.marks", there.map((key) => h("li", { key, title: MEANS[key] }, h("i", { class: `is-${key}`, "aria-hidden": true }),
        `${number(found[key])} ${key}`)), per > 1 && h("li.muted", `a square: ${per} clients`))]);
}

function waiting(now) {
  return card("What waits", { key: "waits", aside: now.waits.length > 0 && number(now.waits.length) },
    now.waits.length ? waitList(now.waits) : h("p.empty-line", now.coordinator_answers ? "Nothing waits." : "No coordinator answers: what waits is not known."));
}

function running(now, sessions) {
  const columns = [
    { key: "session", label: "Session", head: true, cell: (one) => sessionLink(one.session) },
    { key: "status", label: "Status", cell: status },
    { key: "rounds", label: "Rounds", cell: progress },
    { key: "metrics", label: "Metrics", class: "says", cell: (one) => line(metrics(one.metrics)) },
    { key: "strategy", label: "Strategy", narrow: false, cell: (one) => h("bdi", one.strategy) },
    { key: "started", label: "Started", narrow: false, cell: (one) => ago(one.started_at) },
  ];
  const none = Object.values(now.sessions).some(Boolean) ? h("p.empty-line", "No session runs. ", h("a", { href: href("sessions") }, "See those that have ended"))
    : empty("No session yet", "A session trains one model with the clients that are there.", only("session.start", h("a.button", { href: "#/sessions/new" }, "Start the first")));
  return card("Sessions that run", { key: "running" }, table({ caption: "Sessions that run", columns, rows: sessions, id: (one) => one.session, empty: none }));
}
