// Asked again: before what lets others in or shuts them out the gateway wants to know anew who one is. What was begun
// goes on when it knows; where one does not say, it is refused as it was.

import { api } from "./api.js";
import { h, paint } from "./dom.js";
import { press } from "./lists.js";
import { load, login, me } from "./me.js";
import { dialog, failure, field } from "./ui.js";

const LOOK_MS = 1000;

// A token, or the whole link that was sent: what stands behind it is the same.
const tokenIn = (text) => decodeURIComponent(/#\/login\/(.+)$/.exec(text)?.[1] ?? text);

let asking = null;

/** Ask who one is; resolves to whether somebody has said it. Two who ask at once ask together. */
export default () => asking ??= ask().finally(() => { asking = null; });

async function ask() {
  const offered = api.get("login").then(({ oidc }) => oidc, () => "");
  let looking = 0;
  const shown = await dialog("Who are you?", (close) => {
    const place = h("div"), other = h("span");
    const submit = h("button.primary", { type: "submit" }, "Go on");
    // The provider is another window; that it has said who one is, the gateway knows.
    const elsewhere = () => {
      window.open(api.url("login/oidc", { again: true }), "_blank");
      const before = me.freshUntil;
      paint(place, h("p.note", { role: "status" }, "This goes on as soon as you have shown it there."));
      clearInterval(looking);
      looking = setInterval(async () => {
        await load();
        if (me.freshUntil > before) close(true);
      }, LOOK_MS);
    };
    offered.then((name) => { if (name) paint(other, press(`Show it with ${name}`, elsewhere)); });
    return h("form", { onsubmit: async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        await login(tokenIn(new FormData(event.target).get("token").trim()), "login/again");
        close(true);
      } catch (problem) {
        submit.disabled = false;
        submit.focus();
        paint(place, failure(problem));
      }
    } }, h("p", "This lets others in or shuts them out, and it is a while since you logged in. Show that you are ", h("bdi", me.name), ", and it goes on."),
    field("Token", h("input", { id: "again-token", name: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", maxlength: 4096 }),
      { help: "One of yours that gives no less than you have here, or a link that logs you in." }), place,
    h("div.actions", press("Cancel", () => close()), other, submit));
  });
  clearInterval(looking);
  return Boolean(shown);
}
