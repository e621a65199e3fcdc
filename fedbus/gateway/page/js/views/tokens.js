// Tokens that were handed out: so that machines can join, and people log in.

import { handOut, revoke } from "../access.js";
import { h } from "../dom.js";
import { ago, moment, number } from "../format.js";
import { below, filters, find, pick, press, upto } from "../lists.js";
import { only } from "../me.js";
import { badge, empty, heading, table, toast } from "../ui.js";

const COLUMNS = (again) => [
  { key: "token", label: "Token", head: true, cell: (row) => h("code", row.token) },
  { key: "status", label: "State", class: "nowrap", cell: (row) => badge(row.status) },
  { key: "what", label: "Lets in", cell: (row) => [row.name ? h("bdi", row.name) : row.what === "join" ? "machines" : "a program", ` as ${row.role}`, row.owner && h("span.note", ` of ${row.owner}`)] },
  { key: "uses", label: "Used", num: true, cell: (row) => row.what === "join" ? `${number(row.uses)}${row.uses_max ? ` of ${number(row.uses_max)}` : ""}` : row.uses_max ? "once" : null },
  { key: "approval", label: "Approval", narrow: false, cell: (row) => row.what === "join" ? row.approval === "ask" ? "asked" : "at once" : null },
  { key: "expires", label: "Good until", narrow: false, cell: (row) => row.expires_at ? moment(row.expires_at) : "no end" },
  { key: "by", label: "By", narrow: false, cell: (row) => h("span", { title: moment(row.at) }, row.by, " ", h("span.note", ago(row.at))) },
  { key: "reason", label: "Why revoked", class: "said", narrow: false, cell: (row) => row.reason },
  { key: "do", label: "", cell: (row) => row.status === "open" && only("token.revoke", press("Revoke", again(() => revoke(row)), { class: "danger", "aria-label": `Revoke ${row.token}` })) }];

export default async function tokens(view) {
  const asked = Object.fromEntries(["text", "what", "status"].map((name) => [name, view.query.get(name)]));
  let size = 100;
  const act = (what) => async () => { if (await what().catch(toast)) more(); };
  const bring = () => only("token.create", press("Let a machine join", act(handOut), { class: "primary" }));
  const more = await view.fresh(async () => {
    const found = await upto("tokens", asked, size, view.signal);
    view.paint(
      heading("Tokens", { note: "A token's text is shown once, when it is made; only a digest is kept." }, bring()),
      filters(find(view, "text", "Search", "id, role, name, by"), pick(view, "what", "For", [["", "all"], ["join", "machines"], ["api", "people"]]), pick(view, "status", "State", [["", "all"], ...["open", "used", "expired", "revoked"].map((one) => [one, one])])),
      found.items.length ? h("div.card", table({ caption: "Tokens, newest first", columns: COLUMNS(act), rows: found.items, id: (row) => row.token, mark: (row) => row.status !== "open" && "faded" }))
        : Object.values(asked).some(Boolean) ? empty("No token fits", "", h("a.button", { href: "#/tokens" }, "Show all")) : empty("No token yet", "With a token another machine joins, outbound only.", bring()),
      below(found, () => { size += 200; more(); }));
  }, { events: false });
  view.every(5000, more);
}
