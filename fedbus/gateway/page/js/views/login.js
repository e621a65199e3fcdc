// Who are you? Shown in place of any view while nobody is logged in; the address stays, so one goes on where one was.

import { api } from "../api.js";
import { h, paint } from "../dom.js";
import { login, me } from "../me.js";
import { again, here } from "../router.js";
import { failure, field, heading, loading } from "../ui.js";

const BACK = "fedbus.back";
export const REFUSED = { cancelled: "You have not let the provider tell who you are.", unknown: "The provider knows you, this workspace does not: who runs it can add you.", suspended: "You are suspended here.",
  factor: "You have shown one factor, and this workspace wants a second: log in at the provider with one.", another: "That was somebody else, or you were not logged in here any more.",
  expired: "That took too long: try it again.", failed: "The provider could not be asked; the gateway's log says why." };

/** Where one was before a provider was asked; "" where nowhere. */
export function back() {
  try {
    const found = sessionStorage.getItem(BACK) ?? "";
    sessionStorage.removeItem(BACK);
    return found.startsWith("#/") && !found.startsWith("#/login") ? found : "";
  } catch { return ""; }
}

const remember = () => { try { sessionStorage.setItem(BACK, location.hash); } catch { /* then the overview is shown */ } };

// `link`: the token of a one-time link, which was taken out of the address; it is exchanged at once. Who is logged in
// already is asked first: whoever sends somebody a link of his own would have her work under his name.
export default async function show(root, link, signal) {
  const why = REFUSED[here().query.get("refused")];
  let busy = Boolean(link), provider = "", problem = why ? { title: "Not logged in", detail: why } : null;
  async function enter(token) {
    busy = true;
    problem = null;
    draw();
    try {
      await login(token);
    } catch (error) {
      problem = error;
    }
    busy = false;
    if (!signal.aborted) draw();
  }
  function draw() {
    paint(root, heading("Log in"), busy ? loading() : h("div.card",
      h("form", { onsubmit: (event) => {
        event.preventDefault();
        enter(new FormData(event.target).get("token").trim());
      } }, field("Token", h("input", { id: "login-token", name: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", maxlength: 4096 }),
        { help: "It begins with fba_. Who runs this workspace hands it out; there: fedbus token create --api --name NAME." }),
      problem && failure(problem), h("div.actions", h("button.primary", { type: "submit" }, "Log in"),
        provider && h("a.button", { href: api.url("login/oidc"), onclick: remember }, `Log in with ${provider}`)))));
  }
  if (link && me.status === "in" && !me.open) {
    const stay = (event) => { event.preventDefault(); again(); };
    return paint(root, heading("Log in"), h("div.card", h("p", "You are ", h("bdi", me.name), " here. The link that you have followed logs you in as whom it was made for."),
      h("div.actions", h("button.primary", { type: "button", onclick: () => { busy = true; draw(); enter(link); } }, "Log in with the link"), h("a.button", { href: "#/", onclick: stay }, "Stay as you are"))));
  }
  draw();
  if (link) await enter(link);
  else root.querySelector("input")?.focus();
  try {
    provider = (await api.get("login", { signal })).oidc ?? "";
    if (provider && !signal.aborted) draw();
  } catch { /* a gateway that offers none */ }
}
