// The keyboard: `/` searches, `?` helps, `g` and a letter goes somewhere. Never while somebody types.

import { h } from "./dom.js";
import { me } from "./me.js";
import { go } from "./router.js";
import { theme } from "./theme.js";
import { dialog } from "./ui.js";

const PLACES = { o: ["overview", "#/"], s: ["sessions", "#/sessions"], n: ["a new session", "#/sessions/new"], m: ["models", "#/models"],
  c: ["clients", "#/clients"], v: ["compare", "#/compare"], e: ["events", "#/events"], t: ["traces", "#/traces"],
  b: ["members", "#/members", "member.read"], k: ["tokens", "#/tokens", "token.read"], p: ["people", "#/people", "person.read"], a: ["the audit", "#/audit", "audit.read"],
  w: ["the workspace", "#/workspace", "workspace.read"], r: ["roles", "#/roles", "self.read"] };
// Of who takes part there is something to see where somebody is asked who they are.
const place = (key) => { const found = PLACES[key]; return found && (!found[2] || (!me.open && me.may(found[2]))) ? found : null; };
let pending = 0;

export function start() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable], dialog")) return;
    if (Date.now() - pending < 1500 && place(event.key)) {
      pending = 0;
      event.preventDefault();
      go(PLACES[event.key][1]);
    } else if (event.key === "g") pending = Date.now();
    else if (event.key === "/") {
      const search = document.querySelector("main input[type=search]");
      if (!search) return go("#/sessions?search=1");
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "?") help();
    else if (event.key === "t") theme.toggle();
  });
}

export function help() {
  const row = (keys, text) => h("tr", h("th", { scope: "row" }, keys.map((key, index) => [index > 0 && " ", h("kbd", key)])), h("td", text));
  return dialog("Keyboard", () => h("table.keys", h("caption.sr", "Shortcuts"), h("tbody",
    row(["/"], "search in the list"), row(["?"], "this help"), row(["t"], "dark or light"), row(["Esc"], "close a dialog"),
    Object.entries(PLACES).filter(([key]) => place(key)).map(([key, [name]]) => row(["g", key], `go to ${name}`)))));
}
