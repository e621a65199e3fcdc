// Back from the provider, in a window of its own: one has shown anew who one is, or why not.

import { h } from "../dom.js";
import { press } from "../lists.js";
import { card, failure, heading } from "../ui.js";
import { REFUSED } from "./login.js";

export default async function shown(view) {
  const why = view.query.get("refused");
  view.paint(heading(why ? "Not shown" : "You have shown who you are"), why ? failure({ title: "The provider does not say that it is you", detail: REFUSED[why] ?? REFUSED.failed })
    : card("What you began goes on", {}, h("p", "It does so in the window that you came from. This one is not needed any more.")),
  h("p.actions", press("Close this window", () => window.close())));
}
