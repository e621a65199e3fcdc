// Who looks at this page and what one may: from GET /me. What one may not do is shown disabled, with the permission that
// is missing; whether it is permitted decides the gateway, here it is only told.

import { api, CSRF, guard } from "./api.js";
import { h } from "./dom.js";
import { left, moment } from "./format.js";
import { press } from "./lists.js";
import { badge, dialog, facts, toast } from "./ui.js";

const listeners = new Set();

export const me = {
  status: "unknown", // unknown (the gateway did not say) | in | out
  name: "", roles: [], actions: null, open: true, until: null, idleUntil: null, freshUntil: null,
  /** Whether one may do something: may("session.start"); as long as nobody has said, yes. */
  may: (action) => !action || !me.actions || me.actions.has(action),
  /** Call at each change. */
  onChange: (call) => listeners.add(call),
};

function become(status, told = {}) {
  Object.assign(me, { status, name: told.name ?? "", roles: told.roles ?? [], actions: told.actions ? new Set(told.actions) : null,
    open: status !== "out" && (told.open ?? true), until: told.until ?? null, idleUntil: told.idle_until ?? null, freshUntil: told.fresh_until ?? null });
  guard.headers = told.csrf ? { [CSRF]: told.csrf } : {};
  for (const call of listeners) call();
}

guard.denied = () => {
  if (me.status === "out") return;
  document.querySelectorAll("dialog[open]").forEach((node) => node.close());
  become("out");
};

/** Ask who one is. Where the gateway does not say, the page goes on, and is refused one by one. */
export async function load() {
  try {
    become("in", await api.get("me"));
  } catch (problem) {
    if (problem.status === 401) guard.denied();
    else if (me.status === "unknown") become("unknown");
  }
}

guard.renew = async () => {
  const { name } = me;
  await load();
  return me.status === "in" && me.name === name;
};

// Somebody uses the page: said once a minute, or four times before it would end. Looking is not using.
let active = Date.now(), said = Promise.resolve(); // what sets a cookie is asked one after the other

function use() {
  if (me.status !== "in" || !me.idleUntil) return;
  if (Date.now() - active < Math.max(5_000, Math.min(60_000, (me.idleUntil * 1000 - active) / 4))) return;
  active = Date.now();
  said = said.then(() => api.post("me/active")).then((told) => become("in", told), () => {});
}
for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"]) window.addEventListener(kind, use, { passive: true, capture: true });

/** Log in with a token, or (`path`) show anew who one is: a new cookie, that no script reads. */
export async function login(token, path = "login") {
  const told = said.then(() => api.post(path, { token }));
  said = told.catch(() => {});
  become("in", await told);
}

export async function logout() {
  await said;
  try {
    await api.post("logout");
  } catch (problem) {
    if (problem.status !== 401) return toast(problem);
  }
  guard.denied();
}

const missing = (action) => `This needs the permission ${action}`;

/** A button or link of something that needs an action; where one may not, it stands disabled and says what is missing. */
export function only(action, node) {
  if (!node || me.may(action)) return node;
  const { class: kind, key, "aria-label": label } = node.props ?? {};
  const why = missing(action);
  return h("button.denied", { type: "button", class: kind?.replace("button", "") || null, key, "aria-disabled": "true", "aria-label": label, "aria-description": why, title: why,
    onclick: () => toast(`${why}.`, "bad") }, [...node.childNodes]);
}

/** Who one is, in the bar; a click tells what one may. */
export const who = () => me.status === "in" && h("button.who", { type: "button", title: me.open ? "This gateway asks nobody who they are" : `${me.name}: ${me.roles.join(", ")}`, onclick: show },
  me.open ? badge("open", "wait") : [h("bdi", me.name), h("span.note", me.roles.join(", "))]);

const show = () => dialog(me.open ? "An open workspace" : "You", (close) => me.open
  ? h("p", "Whoever reaches this gateway may do everything, and its broker asks nobody who they are. ", h("code", "fedbus up"), " without ", h("code", "--open"), " makes a workspace with identities, roles and an audit.")
  : [facts([["name", h("bdi", me.name)], ["roles", me.roles.join(", ")], ["logged in", me.until && h("span", { title: moment(me.until) }, left(me.until))]]), h("p.note", "You may"), h("span.chips", [...me.actions].map((one) => h("span.chip", { key: one }, one))),
    h("div.actions", h("a.button", { href: "#/roles", onclick: () => close() }, "All roles"), h("a.button", { href: "#/me", onclick: () => close() }, "Where you are signed in"), press("Log out", () => { close(); logout(); }))]);
