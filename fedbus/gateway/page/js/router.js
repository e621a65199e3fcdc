// Addresses after the hash: #/sessions/NAME?round=3. A view is a function that gets a context and paints into it; all
// that it began (requests, listeners, timers) ends with the context's signal when the address changes.

import { api } from "./api.js";
import { h, paint } from "./dom.js";
import { live } from "./live.js";
import { failure, loading } from "./ui.js";

const routes = [];
let leaving = null;
let shown = "";

/** `path`: "sessions/:session"; `load`: () => import("./views/session.js"), whose default is the view; `section`: of the menu. */
export function register(path, load, { title = "", section = "" } = {}) {
  const parts = path.split("/").filter(Boolean);
  routes.push({ parts, load, title, section });
}

/** The address of a view: href("sessions", name), href(["events"], {session: name}). */
export function href(path, query = {}) {
  const parts = Array.isArray(path) ? path : path.split("/").filter(Boolean);
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) search.append(key, one);
    }
  }
  const text = search.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** Go to an address made by `href`; `replace` keeps "back" where it was (filters, pages of a list). */
export function go(address, { replace = false } = {}) {
  if (replace) {
    history.replaceState(null, "", address);
    show();
  } else location.hash = address.slice(1);
}

/** The address of now, in parts: {path: [...], query: URLSearchParams}. */
export function here() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(search) };
}

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function find(path) {
  for (const route of routes) {
    if (route.parts.length !== path.length) continue;
    const params = {};
    if (route.parts.every((part, index) => part.startsWith(":") ? ((params[part.slice(1)] = path[index]), true) : part === path[index])) {
      return { route, params };
    }
  }
  return null;
}

/** `onRoute(section)`: an address is shown; `gate(root, path, signal)`: whether something else is shown in its place. */
export function start(onRoute, gate) {
  window.addEventListener("hashchange", () => { if (!location.hash || location.hash.startsWith("#/")) show(); });
  Object.assign(start, { told: onRoute, gate });
  show();
}

/** Show the address of now anew, from nothing. */
export function again() {
  shown = "";
  show();
}

async function show() {
  const { path, query } = here();
  const found = find(path);
  const place = JSON.stringify(path);
  const same = place === shown; // only the query is another: focus and scroll stay
  shown = place;
  leaving?.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const main = document.getElementById("main");
  const root = h("div.view", { key: place, "data-address": `#/${path.map(encodeURIComponent).join("/")}` });
  if (start.gate?.(root, path, signal)) {
    title("Log in");
    shown = "";
    main.replaceChildren(root);
    return;
  }
  start.told?.(found?.route.section ?? "");
  if (!found) {
    title("Not found");
    main.replaceChildren(h("div.view", h("h1", { tabindex: -1 }, "There is no such page"),
      h("p", "The address leads nowhere. ", h("a", { href: "#/" }, "Back to the overview"))));
    main.querySelector("h1").focus();
    return;
  }
  title(found.route.title || found.params[Object.keys(found.params)[0]] || "");
  try {
    const view = (await found.route.load()).default;
    if (signal.aborted) return;
    const old = main.querySelector(":scope > .view");
    const target = same && old?.props?.key === place ? old : root;
    if (target === root) {
      paint(root, loading());
      main.replaceChildren(root);
      window.scrollTo(0, 0);
    }
    await view(context(target, found, query, signal, !same));
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    if (error.status === undefined) console.warn(error);
    if (!root.isConnected) main.replaceChildren(root);
    paint(root, h("h1", { tabindex: -1 }, found.route.title || h("bdi", Object.values(found.params)[0])), failure(error),
      h("p", h("button", { type: "button", onclick: show }, "Try again")));
    live.onResume(show, signal);
    if (!same) root.querySelector("h1").focus({ preventScroll: true });
  }
}

function title(text) {
  document.title = text ? `${text} \u00b7 fedbus` : "fedbus";
}

let pointed = false; // the very first view does not take the focus away from the top of the page

function context(root, { params }, query, signal, fresh) {
  let focus = fresh && pointed;
  pointed = true;
  return {
    root, params, query, signal, api, live,
    title,
    /** Paint the view; the first time its h1 gets the focus, so that a screen reader says where one is. */
    paint(...children) {
      if (signal.aborted) return;
      paint(root, ...children);
      if (focus) root.querySelector("h1")?.focus({ preventScroll: true });
      focus = false;
    },
    /** Change a part of the query in the address: replaces it, and shows the view anew with focus kept. */
    ask(changes) {
      const next = Object.fromEntries([...query.keys()].map((key) => [key, query.getAll(key)]));
      go(href(here().path, { ...next, ...changes }), { replace: true });
    },
    every(ms, call) {
      const timer = setInterval(() => { if (!document.hidden) call(); }, ms);
      signal.addEventListener("abort", () => clearInterval(timer), { once: true });
    },
    /**
     * Keep something fresh: `load` now, and again when events that fit `{session, kind}` arrive (or `overview: true`
     * when the overview changes, or after a break); never twice at once, and with a pause of `pause_ms`. What fails at
     * first is thrown; what fails later is tried again at the next occasion.
     */
    async fresh(load, { session, kind, overview = false, events = true, pause_ms = 400 } = {}) {
      let busy = false, again = false, timer = 0;
      const run = async () => {
        busy = true;
        again = false;
        try { await load(); } finally {
          busy = false;
          if (again && !signal.aborted) later();
        }
      };
      const later = () => {
        if (busy) { again = true; return; }
        timer ||= setTimeout(() => { timer = 0; if (!signal.aborted) run().catch(quiet); }, pause_ms);
      };
      signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
      if (events) live.on({ session, kind }, later, signal);
      if (overview) live.onOverview(later, signal);
      live.onResume(later, signal);
      await run();
      return later;
    },
  };
}

function quiet(error) {
  if (error.name !== "AbortError" && error.status === undefined) console.warn(error);
}
