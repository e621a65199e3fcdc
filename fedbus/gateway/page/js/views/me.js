// Where one is signed in, seen and ended.

import { h } from "../dom.js";
import { ago, left, moment } from "../format.js";
import { press } from "../lists.js";
import { me } from "../me.js";
import { badge, card, confirm, empty, facts, heading, table, toast } from "../ui.js";

const COLUMNS = (end) => [
  { key: "at", label: "Since", head: true, class: "nowrap", cell: (row) => [h("span", { title: moment(row.at) }, ago(row.at)), row.this && [" ", badge("this one", "ok")]] },
  { key: "origin", label: "From", class: "nowrap", cell: (row) => h("bdi", row.origin) },
  { key: "by", label: "With", cell: (row) => h("bdi", row.by) },
  { key: "agent", label: "Browser", class: "said", narrow: false, cell: (row) => row.agent },
  { key: "until", label: "Ends", class: "nowrap", narrow: false, cell: (row) => h("span", { title: moment(row.until) }, left(row.until)) },
  { key: "do", label: "", cell: (row) => !row.this && h("span.actions", press("End", () => end(row), { class: "danger", key: "end", "aria-label": `End the one from ${row.origin}, ${moment(row.at)}` })) }];

export default async function mine(view) {
  if (me.open) return view.paint(heading("You"), empty("Nobody is asked here", "Whoever reaches this gateway may do everything."));
  const path = "me/sign-ins";
  const more = await view.fresh(async () => {
    const { items } = await view.api.get(path, { signal: view.signal });
    const end = async ({ sign_in }) => {
      if (await view.api.delete([...path.split("/"), sign_in]).catch(toast)) more();
    };
    const others = items.filter((one) => !one.this).length;
    const all = async () => {
      const done = await confirm("End all others", { text: "Whoever goes on there has to log in again. This one stays.", action: "End all others", danger: true, act: () => view.api.delete(path) });
      if (done) more();
    };
    view.paint(
      heading("You", {}, others > 0 && press("End all others", all, { key: "others", class: "danger" })),
      card("Who you are", {}, facts([["name", h("bdi", me.name)], ["roles", me.roles.join(", ")], ["logged in", me.until && h("span", { title: moment(me.until) }, left(me.until))],
        ["without doing anything", me.idleUntil && h("span", { title: moment(me.idleUntil) }, left(me.idleUntil))]])),
      card("Where you are signed in", {}, table({ caption: "Sign-ins, newest first", columns: COLUMNS(end), rows: items, id: (row) => row.sign_in, empty: "Nowhere: you came with a token of your own." }),
        h("p.note", "What you do not know, end it; then have the token revoked that it was made with.")));
  }, { events: false });
  view.every(10_000, more);
}
