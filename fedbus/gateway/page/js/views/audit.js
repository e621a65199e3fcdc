// The audit: what was done by whom, when, from where, with which result; and whether its chain holds.

import { h } from "../dom.js";
import { ago, count, moment, number } from "../format.js";
import { below, filters, find, pick, press, upto, when } from "../lists.js";
import { only } from "../me.js";
import { badge, copyable, digest, empty, facts, heading, table, toast } from "../ui.js";

const opened = new Set();

const COLUMNS = (redraw) => [
  { key: "number", label: "No.", num: true, cell: (row) => press(number(row.number), () => { opened.has(row.number) ? opened.delete(row.number) : opened.add(row.number); redraw(); }, { class: "plain", "aria-expanded": String(opened.has(row.number)), "aria-label": `Details of ${row.number}` }) },
  { key: "at", label: "When", cell: (row) => h("span", { title: moment(row.at) }, ago(row.at)) },
  { key: "by", label: "Who", class: "nowrap", cell: (row) => h("bdi", row.by) },
  { key: "action", label: "What", head: true, cell: (row) => [row.action, " ", opened.has(row.number) && h("div.detail", facts([["when", moment(row.at)], ["written by", row.writer], ["reason", row.reason], ...Object.entries(row.details), ["digest", digest(row.digest)], ["behind", digest(row.before)]]))] },
  { key: "target", label: "Of what", class: "target", cell: (row) => row.target && h("bdi.break", row.target) },
  { key: "result", label: "Result", class: "nowrap", cell: (row) => badge(row.result) },
  { key: "reason", label: "Why", class: "said", narrow: false, cell: (row) => row.reason },
  { key: "origin", label: "From", narrow: false, class: "nowrap", cell: (row) => row.origin && h("bdi", row.origin) }];

function verdict({ whole, count: deeds, head, faults, faults_count }) {
  return h("div", { class: whole ? "notice ok" : "problem", role: "status" }, h("p.big", whole ? `The chain holds: ${count(deeds, "deed")}, none missing, changed or out of order` : `The chain does not hold: ${count(faults_count, "fault")}`),
    faults.length > 0 && h("ul", faults.slice(0, 20).map((one) => h("li", `${one.kind}: ${one.what} (at ${number(one.sequence)})`))),
    head && h("p", "Its head, to be noted elsewhere: ", copyable(head)));
}

export default async function audit(view) {
  const { query, signal, api } = view;
  const asked = Object.fromEntries(["by", "action", "target", "result", "since", "until"].map((name) => [name, query.get(name)]));
  let size = 100, verified = null, found = { items: [] };
  const draw = () => view.paint(
    heading("Audit", { note: "Written once, each deed chained to the one before it, and never taken back." },
      only("audit.verify", press("Verify", async ({ target }) => {
        target.disabled = true;
        try { verified = await api.get("audit/verification", { signal }); draw(); } catch (problem) { toast(problem); }
        target.disabled = false;
        if (document.activeElement === document.body) target.focus();
      }, { class: "primary" })), h("a.button", { href: api.url("audit", { ...asked, format: "jsonl" }), download: "" }, "Export")),
    verified && verdict(verified),
    filters(find(view, "by", "Who", "a person, or role/name"), find(view, "action", "What", "member.suspend", "text"), find(view, "target", "Of what", "client/site-1", "text"), pick(view, "result", "Result", [["", "all"], ...["done", "refused", "failed"].map((one) => [one, one])]), when(view, "since", "From"), when(view, "until", "Until")),
    found.items.length ? h("div.card", table({ caption: "Deeds, newest first", columns: COLUMNS(draw), rows: found.items, id: (row) => row.sequence }))
      : Object.values(asked).some(Boolean) ? empty("No deed fits", "", h("a.button", { href: "#/audit" }, "Show all")) : empty("Nothing was done yet", "Logins, decisions, starts and refusals are written down here."),
    below({ ...found, total: null }, () => { size += 200; more(); }));
  const more = await view.fresh(async () => {
    found = await upto("audit", asked, size, signal);
    draw();
  }, { events: false });
  view.every(5000, more);
}
