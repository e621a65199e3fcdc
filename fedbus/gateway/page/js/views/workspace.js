// The workspace: what it may use, and what it uses.

import { h } from "../dom.js";
import { bytes, moment, number } from "../format.js";
import { press } from "../lists.js";
import { only } from "../me.js";
import { entry, form } from "../registry.js";
import { href } from "../router.js";
import { card, facts, field, heading, meter, table, toast } from "../ui.js";

const USED = [["clients", "active clients", number], ["sessions", "sessions that have not ended", number], ["bytes", "bytes of its streams", bytes]];

const COLUMNS = [
  { key: "what", label: "Of", head: true },
  { key: "used", label: "Used", num: true },
  { key: "most", label: "At most", num: true, cell: (row) => row.most || "no bound" },
  { key: "share", label: "How full", cell: (row) => row.max > 0 && meter(row.now / row.max, `${Math.round(100 * row.now / row.max)} % of it`, row.now >= row.max ? "bad" : row.now / row.max > 0.8 ? "wait" : "") }];

const change = (api, now) => form("Bounds of the workspace", "Save", [
  entry("clients_max", "Active clients, at most", { type: "number", min: 0, value: now.clients_max, required: true }, "0: without a bound, as below."),
  entry("sessions_max", "Sessions at once, at most", { type: "number", min: 0, value: now.sessions_max, required: true }),
  entry("bytes_max", "Bytes of all its streams, at most", { type: "number", min: 0, value: now.bytes_max, required: true }),
  field("Whoever joins", h("select", { name: "approval", id: "f-approval" }, [["auto", "comes in at once"], ["ask", "waits until somebody approves"]].map(([value, text]) => h("option", { value, selected: value === now.approval }, text))), { help: "Where the token does not say otherwise." })],
({ approval, ...given }) => api.put("workspace", { approval, ...Object.fromEntries(Object.entries(given).map(([name, value]) => [name, Number(value)])) }));

export default async function workspace(view) {
  const { api, signal } = view;
  const again = await view.fresh(async () => {
    const found = await api.get("workspace", { signal });
    view.paint(
      heading("Workspace", { note: found.workspace }, only("workspace.set", press("Change", async () => { if (await change(api, found).catch(toast)) again(); }, { class: "primary" }))),
      card("Bounds", {}, table({ caption: "What the workspace may use, and uses", columns: COLUMNS, id: (row) => row.what,
        rows: USED.map(([key, what, text]) => ({ what, now: found.usage[key], max: found[`${key}_max`], used: text(found.usage[key]), most: found[`${key}_max`] && text(found[`${key}_max`]) })) })),
      card("Joining", {}, facts([["whoever joins", found.approval === "ask" ? "waits until somebody approves" : "comes in at once"], ["decided by", found.by && `${found.by}, ${moment(found.at)}`],
        ["members", h("span.chips", Object.entries(found.members).map(([state, many]) => h("a.chip", { key: state, href: href("members", { state }) }, state, h("span.k", number(many)))))]])));
  }, { events: false, overview: true, pause_ms: 1500 });
}
