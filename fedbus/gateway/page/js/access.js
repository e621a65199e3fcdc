// What is decided about members, tokens and people: dialogs. Each resolves to what was done, or to null.

import { api } from "./api.js";
import { h } from "./dom.js";
import { count, moment } from "./format.js";
import { press } from "./lists.js";
import { only } from "./me.js";
import { entry, form } from "./registry.js";
import { href } from "./router.js";
import { confirm, copyable, dialog, facts, field, toast } from "./ui.js";

/** The roles that there are, as the gateway says: {people: [...], members: [...]}; asked once. */
export const rolesThere = async () => known ??= await api.get("roles").then((told) => ({ people: told.roles.map(({ role }) => role), members: told.members }));
let known = null;
const every = (names) => names.map((one) => [one, one]);
export const allOr = (names) => [["", "all"], ...every(names)];

/** A public key in groups that people can compare. */
export const keyText = (key) => h("span.key", copyable(key, key.match(/.{1,4}/g).join(" ")));

export const memberLink = ({ role, member }) => h("a", { href: href(["members", role, member]) }, h("bdi", member));

const DEEDS = {
  approve: ["Approve", { waiting: true }, "It gets an identity at the broker and may take part. Compare its key with the one that its own machine shows."],
  suspend: ["Suspend", { active: true }, "The broker cuts it off now, and lets it in again when it is resumed."],
  resume: ["Resume", { suspended: true }, "It comes back with the identity that it has."],
  expel: ["Expel", { waiting: true, active: true, suspended: true }, "The broker cuts it off now and never lets it in again under this key. It can join anew only with a new token."],
};

/** Buttons for what can be done with a member; `again` is called when something was. */
export const deeds = (row, again) => h("span.actions", Object.entries(DEEDS).filter(([, [, from]]) => from[row.state]).map(([deed, [name, , text]]) => {
  const refuses = deed === "expel" && row.state === "waiting";
  const word = refuses ? "Refuse" : name;
  const harms = deed === "suspend" || deed === "expel";
  return only(`member.${deed}`, press(word, async () => {
    const done = await confirm(`${word} ${row.role} ${row.member}`, { text: refuses ? "It does not come in; it can ask again only with a new token." : text, action: word, danger: harms,
      field: { label: "Reason", required: harms, max: 2000 }, act: (reason) => api.post(["members", row.role, row.member, deed], { reason }) });
    if (done) {
      toast(`${row.member} is ${done.answer.state}`);
      again(done.answer);
    }
  }, { key: deed, class: deed === "approve" ? "primary" : deed === "expel" ? "danger" : null, "aria-label": `${word} ${row.member}` }));
}));

const choose = (name, label, values, props = {}, help = "") => field(label, h("select", { name, id: `f-${name}`, ...props }, values.map(([value, text]) => h("option", { value, selected: value === props.value }, text))), { help });
const SPANS = [["900", "15 minutes"], ["3600", "1 hour"], ["86400", "1 day"], ["604800", "7 days"], ["2592000", "30 days"], ["0", "until it is revoked"]];

// A secret, this once: it can be copied, and is gone when the dialog is closed.
const once = (title, rows, text) => dialog(title, (close) => h("div", h("p.notice", text), facts(rows), h("div.actions", h("button.primary", { type: "button", onclick: () => close(true) }, "Done"))), { wide: true });

/** Hand out a token by which a machine joins. */
export async function handOut() {
  const { members } = await rolesThere();
  const made = await form("Let a machine join", "Create", [
    choose("role", "Role", every(members)),
    entry("name", "Name", { placeholder: "whoever joins chooses", pattern: "[A-Za-z0-9_\\-]{1,64}" }, "Whom it is for; then it has one use."),
    entry("owner", "Owner", { placeholder: "nobody" }, "The person whose clients come in by it."),
    choose("expires_s", "Good for", SPANS, { value: "3600" }), entry("uses_max", "Uses", { type: "number", min: 0, max: 10000, value: 1, required: true }, "0: without a limit."),
    choose("approval", "Approval", [["", "as the workspace says"], ["auto", "comes in at once"], ["ask", "waits until somebody approves"]])],
  ({ role, name, owner, expires_s, uses_max, approval }) => api.post("tokens", { what: "join", role, name: name.trim(), owner: owner.trim(), expires_s: Number(expires_s), uses_max: Number(uses_max), ...(approval && { approval }) }));
  if (made) {
    await once("A token to join with", [["on the other machine", copyable(made.command)], ["token", copyable(made.text)], ["good until", made.expires_at ? moment(made.expires_at) : "it is revoked"], ["uses", made.uses_max ? count(made.uses_max, "use") : "without a limit"]],
      "It is shown this once and kept nowhere. Whoever has it can join: send it by a way that only its receiver reads.");
  }
  return made;
}

const linkOf = (text) => `${new URL("./", document.baseURI).href}#/login/${text}`;

/** Give a person a link that logs in once, or a token for programs. */
export async function letIn(person) {
  const made = await form(`Let ${person.person} log in`, "Create", [
    choose("uses", "With", [["1", "a link that works once"], ["0", "a token for programs, or to type in"]]),
    choose("role", "Role", every(person.roles), {}, "Of the person's: what it lets do."), choose("expires_s", "Good for", SPANS, { value: "900" })],
  ({ uses, role, expires_s }) => api.post("tokens", { what: "api", name: person.person, role, expires_s: Number(expires_s), uses_max: Number(uses) }));
  if (made) {
    await once(`For ${person.person}`, [[made.uses_max === 1 ? "link" : "token", copyable(made.uses_max === 1 ? linkOf(made.text) : made.text)], ["role", made.role], ["good until", made.expires_at ? moment(made.expires_at) : "it is revoked"]],
      "It is shown this once and kept nowhere. Whoever has it is that person here.");
  }
  return made;
}

/** Revoke a token; who came in by it stays. */
export const revoke = (row) => confirm(`Revoke ${row.token}`, { text: row.what === "join" ? "Nobody joins by it any more; who has joined stays." : "Whoever uses it is refused at once.",
  action: "Revoke", danger: true, field: { label: "Reason", max: 2000 }, act: (reason) => api.delete(["tokens", row.token], { query: { reason } }) });

const roles = (people, now) => h("fieldset", h("legend", "Roles"), people.map((one) => h("label.check", { key: one }, h("input", { type: "checkbox", name: "roles", value: one, checked: now.includes(one) }), one)));
const subjects = (now) => field("Logs in by OIDC as", h("textarea", { name: "subjects", id: "f-subjects", spellcheck: "false", value: now.join("\n") }), { help: "Each in a line: the provider's issuer, # and the subject. Empty: by token only." });
const lines = (text) => text.split("\n").map((one) => one.trim()).filter(Boolean);
const ticked = () => [...document.querySelectorAll("dialog input[name=roles]:checked")].map((one) => one.value);

/** Let somebody use the gateways. */
export const addPerson = async () => form("Add a person", "Add", [
  entry("person", "Name", { required: true, autofocus: true, placeholder: "ana@hospital.example", pattern: "[A-Za-z0-9_@.:+\\-]{1,200}" }), roles((await rolesThere()).people, []), subjects([])],
({ person, subjects: text }) => api.post("people", { person: person.trim(), roles: ticked(), subjects: lines(text) }));

/** Change what somebody is. */
export const changePerson = async (row) => form(`Change ${row.person}`, "Save", [roles((await rolesThere()).people, row.roles), subjects(row.subjects)],
  ({ subjects: text }) => api.patch(["people", row.person], { roles: ticked(), subjects: lines(text) }));
