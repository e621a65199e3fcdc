// The page begins: its menu, its addresses, its keys, and one stream of events.

import { api, guard } from "./api.js";
import { h, paint } from "./dom.js";
import * as keys from "./keys.js";
import { live } from "./live.js";
import { load, me, who } from "./me.js";
import * as router from "./router.js";
import { theme } from "./theme.js";
import login, { back } from "./views/login.js";

guard.again = () => import("./again.js").then((it) => it.default()); // few are asked, and not at first

const { register } = router;
register("", () => import("./views/overview.js"), { title: "Overview", section: "overview" });
register("sessions", () => import("./views/sessions.js"), { title: "Sessions", section: "sessions" });
register("sessions/new", () => import("./views/start.js"), { title: "Start a session", section: "sessions" });
register("sessions/:session", () => import("./views/session.js"), { section: "sessions" });
register("sessions/:session/rounds/:round/trace", () => import("./views/trace.js"), { section: "traces" });
register("compare", () => import("./views/compare.js"), { title: "Compare", section: "compare" });
register("models", () => import("./views/models.js"), { title: "Models", section: "models" });
register("models/:version", () => import("./views/model.js"), { section: "models" });
register("clients", () => import("./views/clients.js"), { title: "Clients", section: "clients" });
register("clients/:client", () => import("./views/client.js"), { section: "clients" });
register("events", () => import("./views/events.js"), { title: "Events", section: "events" });
register("traces", () => import("./views/traces.js"), { title: "Traces", section: "traces" });
register("members", () => import("./views/members.js"), { title: "Members", section: "members" });
register("members/:role/:member", () => import("./views/member.js"), { section: "members" });
register("tokens", () => import("./views/tokens.js"), { title: "Tokens", section: "tokens" });
register("people", () => import("./views/people.js"), { title: "People", section: "people" });
register("audit", () => import("./views/audit.js"), { title: "Audit", section: "audit" });
register("workspace", () => import("./views/workspace.js"), { title: "Workspace", section: "workspace" });
register("me", () => import("./views/me.js"), { title: "You" });
register("shown", () => import("./views/shown.js"), { title: "Shown" });
register("roles", () => import("./views/roles.js"), { title: "Roles", section: "roles" });

// Each with what one needs to see it.
const MENU = [["overview", "Overview", "#/", "overview.read"], ["sessions", "Sessions", "#/sessions", "session.read"], ["compare", "Compare", "#/compare", "session.read"],
  ["models", "Models", "#/models", "model.read"], ["clients", "Clients", "#/clients", "client.read"], ["events", "Events", "#/events", "event.read"], ["traces", "Traces", "#/traces", "session.inspect"]];
const ACCESS = [["members", "Members", "#/members", "member.read"], ["tokens", "Tokens", "#/tokens", "token.read"], ["people", "People", "#/people", "person.read"],
  ["audit", "Audit", "#/audit", "audit.read"], ["workspace", "Workspace", "#/workspace", "workspace.read"], ["roles", "Roles", "#/roles", "self.read"]];
const STATUS = { connecting: "connecting", live: "live", reconnecting: "reconnecting", gone: "gateway gone" };

const byId = (id) => document.getElementById(id);

const WAITING_MS = 10_000;
let section = "", waiting = 0;
function menu() {
  const running = live.overview?.sessions ?? {};
  const busy = (running.running ?? 0) + (running.waiting ?? 0) + (running.starting ?? 0);
  const shown = me.status === "out" ? [] : [...MENU, ...ACCESS.filter(([key]) => !me.open || key === "audit")].filter(([, , , action]) => me.may(action));
  document.body.classList.toggle("out", me.status === "out");
  paint(byId("who"), who());
  paint(byId("nav"), shown.map(([key, text, address]) => h("li", { key, class: key === (me.open ? "audit" : "members") ? "first" : null }, h("a", { href: address, "aria-current": key === section ? "page" : null }, text,
    key === "sessions" && busy > 0 && h("span.count", { title: `${busy} not ended` }, busy),
    key === "members" && waiting > 0 && h("span.count.warn", { title: `${waiting} wait to be let in` }, waiting),
    key === "clients" && live.overview?.clients > 0 && h("span.count", { title: `${live.overview.clients} there` }, live.overview.clients.toLocaleString("en"))))));
}

function themeButton() {
  const button = byId("theme");
  const next = theme.now === "dark" ? "light" : "dark";
  button.textContent = theme.now === "dark" ? "\u2600" : "\u263e";
  button.setAttribute("aria-label", `Change to ${next}`);
  button.title = `Change to ${next} (t)`;
}

byId("theme").addEventListener("click", theme.toggle);
byId("help").addEventListener("click", keys.help);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
theme.onChange(themeButton);
themeButton();

live.onStatus((status) => {
  byId("live").dataset.status = status;
  byId("live-text").textContent = STATUS[status];
});
live.onOverview((overview) => {
  byId("place").textContent = overview.workspace;
  byId("place").title = `workspace ${overview.workspace}`;
  menu();
});

// A one-time link: its token leaves the address, and the history with it, before anything else happens.
let link = "";
function taken() {
  const found = /^#\/login\/(.+)$/.exec(location.hash);
  if (!found) return;
  history.replaceState(null, "", "#/");
  try { link = decodeURIComponent(found[1]); } catch { link = found[1]; }
}
function gate(root, path, signal) {
  taken();
  const token = link;
  link = "";
  if (me.status !== "out" && !token) {
    if (path[0] !== "login") return false;
    history.replaceState(null, "", back() || "#/"); // somebody who is logged in already
    queueMicrotask(router.again);
    return true;
  }
  section = "";
  menu();
  login(root, token, signal);
  return true;
}

// Who waits to be let in is counted in the menu, for those who can do something about it.
async function count() {
  const asked = me.status === "in" && !me.open && me.may("member.approve");
  try {
    waiting = asked ? (await api.get("members", { query: { state: "waiting", limit: 1 } })).total : 0;
    menu();
  } catch { /* asked again in a moment */ }
}

let was = "";
const whose = () => `${me.status} ${me.name}`;
function changed() {
  menu();
  if (whose() === was) return;
  was = whose();
  count();
  if (me.status === "out") live.stop();
  else live.start();
  router.again();
}

taken();
keys.start();
await load();
if (me.status === "in" && !link && location.hash.length < 3) history.replaceState(null, "", back() || "#/");
was = whose();
me.onChange(changed);
live.refused = load;
live.onResume(() => { if (me.status === "unknown") load(); });
if (me.status !== "out") live.start();
count();
setInterval(() => { if (!document.hidden) count(); }, WAITING_MS);
router.start((now) => {
  section = now;
  menu();
}, gate);
