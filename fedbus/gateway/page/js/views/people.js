// People who may use the gateways, and as what.

import { addPerson, allOr, changePerson, letIn, rolesThere } from "../access.js";
import { h } from "../dom.js";
import { ago } from "../format.js";
import { below, filters, find, pick, press, upto } from "../lists.js";
import { me, only } from "../me.js";
import { badge, confirm, empty, heading, table, toast } from "../ui.js";

const COLUMNS = (act, api) => {
  const state = (row, next, word) => only("person.change", press(word, act(() => confirm(`${word} ${row.person}`, { text: next === "active" ? "She may use the gateways again." : "She is refused from now on, logged in or not.", action: word, danger: next !== "active",
    act: () => api.patch(["people", row.person], { state: next }) })), { "aria-label": `${word} ${row.person}` }));
  return [
    { key: "person", label: "Person", head: true, cell: (row) => [h("bdi", row.person), row.person === me.name && h("span.note", " (you)")] },
    { key: "roles", label: "Roles", cell: (row) => h("span.chips", row.roles.map((one) => h("span.chip", { key: one }, one))) },
    { key: "state", label: "State", class: "nowrap", cell: (row) => badge(row.state) },
    { key: "subjects", label: "OIDC", class: "said", narrow: false, cell: (row) => row.subjects.join(", ") },
    { key: "by", label: "By", narrow: false, cell: (row) => [row.by, " ", h("span.note", ago(row.at))] },
    { key: "do", label: "", cell: (row) => h("span.actions", only("token.create", press("Let in", act(() => letIn(row)), { "aria-label": `Let ${row.person} log in` })),
      only("person.change", press("Change", act(() => changePerson(row)), { "aria-label": `Change ${row.person}` })), row.state === "active" ? state(row, "suspended", "Suspend") : state(row, "active", "Resume"),
      only("person.remove", press("Remove", act(() => confirm(`Remove ${row.person}`, { text: "Her tokens and logins end with it; what she did stays in the audit.", action: "Remove", danger: true, act: () => api.delete(["people", row.person]) })), { class: "danger", "aria-label": `Remove ${row.person}` }))) }];
};

export default async function people(view) {
  const asked = Object.fromEntries(["text", "role", "state"].map((name) => [name, view.query.get(name)]));
  const { people: roles } = await rolesThere();
  let size = 100;
  const act = (what) => async () => { if (await what().catch(toast)) more(); };
  const more = await view.fresh(async () => {
    const found = await upto("people", asked, size, view.signal);
    view.paint(
      heading("People", { note: "Who may use this page, REST and the command line over it. What each role may do stands under Roles." }, only("person.add", press("Add a person", act(addPerson), { class: "primary" }))),
      filters(find(view, "text", "Search", "name"), pick(view, "role", "Role", allOr(roles)), pick(view, "state", "State", [["", "all"], ["active", "active"], ["suspended", "suspended"]])),
      found.items.length ? h("div.card", table({ caption: "People", columns: COLUMNS(act, view.api), rows: found.items, id: (row) => row.person, mark: (row) => row.state !== "active" && "faded" }))
        : Object.values(asked).some(Boolean) ? empty("Nobody fits", "", h("a.button", { href: "#/people" }, "Show all")) : empty("Nobody yet", "Add a person, and hand out a link with which she logs in."),
      below(found, () => { size += 200; more(); }));
  }, { events: false });
  view.every(5000, more);
}
