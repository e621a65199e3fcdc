// The page begins: its menu, its addresses, its keys, and one stream of events.

import { h, paint } from "./dom.js";
import * as keys from "./keys.js";
import { live } from "./live.js";
import * as router from "./router.js";
import { theme } from "./theme.js";

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

const MENU = [["overview", "Overview", "#/"], ["sessions", "Sessions", "#/sessions"], ["compare", "Compare", "#/compare"],
  ["models", "Models", "#/models"], ["clients", "Clients", "#/clients"], ["events", "Events", "#/events"], ["traces", "Traces", "#/traces"]];
const STATUS = { connecting: "connecting", live: "live", reconnecting: "reconnecting", gone: "gateway gone" };

const byId = (id) => document.getElementById(id);

let section = "";
function menu() {
  const running = live.overview?.sessions ?? {};
  const busy = (running.running ?? 0) + (running.waiting ?? 0) + (running.starting ?? 0);
  paint(byId("nav"), MENU.map(([key, text, address]) => h("li", { key }, h("a", { href: address, "aria-current": key === section ? "page" : null }, text,
    key === "sessions" && busy > 0 && h("span.count", { title: `${busy} not ended` }, busy),
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
keys.start();
live.start();
router.start((now) => {
  section = now;
  menu();
});
