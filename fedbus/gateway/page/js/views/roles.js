// Who may do what: the table by which the gateway decides.

import { h } from "../dom.js";
import { me } from "../me.js";
import { card, heading, table } from "../ui.js";

export default async function roles(view) {
  const { roles: every, actions } = await view.api.get("roles", { signal: view.signal });
  const may = new Map(every.map((one) => [one.role, new Set(one.actions)]));
  const column = ({ role, about }) => ({ key: role, label: role, class: me.roles.includes(role) ? "mark own" : "mark", title: about,
    cell: ({ action }) => may.get(role).has(action) ? h("span.yes", { role: "img", "aria-label": "yes" }, "\u2713") : h("span.no", { role: "img", "aria-label": "no" }, "\u00b7") });
  view.paint(
    heading("Roles", { note: me.open ? "What each role may do where people are asked who they are." : `You are ${me.roles.join(", ") || "nobody"}. Somebody with several roles may do what any of them may.` }),
    card("What each role may do", {}, table({ caption: "Actions by role", dense: true, rows: actions, id: (row) => row.action, columns: [
      { key: "action", label: "Action", head: true, cell: (row) => h("code", row.action) }, ...every.map(column), { key: "about", label: "May", class: "said", narrow: false, cell: (row) => h("span", { title: row.operations.join(", ") }, row.about) }] })));
}
