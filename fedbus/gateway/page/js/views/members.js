// Who takes part: who waits to be let in first, then everybody, with what can be decided about them.

import { allOr, deeds, handOut, keyText, memberLink, rolesThere } from "../access.js";
import { h } from "../dom.js";
import { ago, moment } from "../format.js";
import { below, filters, find, pick, press, upto } from "../lists.js";
import { only } from "../me.js";
import { badge, card, empty, heading, table, toast } from "../ui.js";

const WAITING = (again) => [
  { key: "member", label: "Member", head: true, cell: (row) => [memberLink(row), h("span.note", ` ${row.role}`)] },
  { key: "key", label: "Key", cell: (row) => keyText(row.key) },
  { key: "owner", label: "Owner", narrow: false, cell: (row) => row.owner },
  { key: "at", label: "Waits since", cell: (row) => ago(row.at) },
  { key: "do", label: "", cell: (row) => deeds(row, again) }];

const ALL = (again) => [
  { key: "member", label: "Member", head: true, cell: memberLink },
  { key: "role", label: "Role", cell: (row) => row.role },
  { key: "state", label: "State", class: "nowrap", cell: (row) => badge(row.state) },
  { key: "there", label: "There", class: "nowrap", cell: (row) => row.state === "active" ? badge(row.online ? "online" : "offline") : null },
  { key: "owner", label: "Owner", narrow: false, cell: (row) => row.owner },
  { key: "told", label: "By, and why", class: "said", narrow: false, cell: (row) => h("span", { title: moment(row.at) }, row.by, row.reason && h("span.note", `: ${row.reason}`)) },
  { key: "expires", label: "Identity until", narrow: false, cell: (row) => row.expires_at && h("span", { title: moment(row.expires_at) }, moment(row.expires_at)) },
  { key: "do", label: "", cell: (row) => deeds(row, again) }];

export default async function members(view) {
  const { query, signal, api } = view;
  const asked = Object.fromEntries(["text", "role", "state"].map((name) => [name, query.get(name)]));
  const { members: roles } = await rolesThere();
  let size = 100;
  const more = await view.fresh(async () => {
    const [waiting, found] = await Promise.all([api.all("members", { query: { state: "waiting" }, most: 500, signal }), upto("members", asked, size, signal)]);
    view.paint(
      heading("Members", { note: "Who has an identity at the broker. Machines join with a token, outbound only." }, only("token.create", press("Let a machine join", async () => { if (await handOut().catch(toast)) more(); }, { class: "primary" }))),
      waiting.length > 0 && card("Waiting to be let in", { key: "waiting" }, table({ caption: "Members that wait", columns: WAITING(() => more()), rows: waiting, id: (row) => `${row.role}/${row.member}` })),
      filters(find(view, "text", "Search", "name or owner"), pick(view, "role", "Role", allOr(roles)),
        pick(view, "state", "State", [["", "all"], ...["waiting", "active", "suspended", "expelled"].map((one) => [one, one])])),
      found.items.length ? h("div.card", { key: "all" }, table({ caption: "Members", columns: ALL(() => more()), rows: found.items, id: (row) => `${row.role}/${row.member}`, mark: (row) => row.state === "expelled" && "faded" }))
        : Object.values(asked).some(Boolean) ? empty("No member fits", "", h("a.button", { href: "#/members" }, "Show all")) : empty("No member yet", "Hand out a token; a machine that joins with it appears here."),
      below(found, () => { size += 200; more(); }));
  }, { events: false, overview: true, pause_ms: 1500 });
  view.every(3000, more);
}
