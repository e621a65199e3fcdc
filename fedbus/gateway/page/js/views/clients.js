// Who is there, who was, and what each gave.

import { h } from "../dom.js";
import { ago, bytes, number } from "../format.js";
import { below, filters, find, pick, press, upto } from "../lists.js";
import { me } from "../me.js";
import { clientLink } from "../parts.js";
import { href } from "../router.js";
import { badge, empty, heading, meter, table } from "../ui.js";

export const chips = (attributes) => Object.keys(attributes ?? {}).length > 0 && h("span.chips", Object.entries(attributes).map(([name, value]) =>
  h("a.chip", { key: name, href: href(["clients"], { attribute: `${name}:${value}` }), title: `clients with ${name} ${value}` }, h("span.k", name), h("bdi", value))));

const COLUMNS = [
  { key: "client", label: "Client", head: true, cell: (row) => clientLink(row.client) },
  { key: "online", label: "State", class: "nowrap", cell: (row) => [badge(row.online ? "online" : "offline"), row.doing && h("span.note", ` ${row.doing}`)] },
  { key: "attributes", label: "Attributes", cell: (row) => chips(row.attributes) || null },
  { key: "sessions", label: "Sessions", num: true, narrow: false, cell: (row) => number(row.sessions) },
  { key: "counted", label: "Updates counted", num: true, title: "of the rounds that it was asked in", cell: (row) => row.rounds_asked > 0 && h("span.share", `${number(row.rounds_counted)} / ${number(row.rounds_asked)} `,
    meter(row.rounds_counted / row.rounds_asked, `${row.rounds_counted} of ${row.rounds_asked} counted`)) },
  { key: "refused", label: "Refused", num: true, narrow: false, cell: (row) => row.rounds_refused ? h("strong.warn", number(row.rounds_refused)) : "0" },
  { key: "weight", label: "Weight", num: true, narrow: false, title: "sum over its counted updates", cell: (row) => number(Math.round(row.weight)) },
  { key: "up", label: "Up", num: true, narrow: false, cell: (row) => bytes(row.bytes_up) },
  { key: "down", label: "Down", num: true, narrow: false, cell: (row) => bytes(row.bytes_down) },
  { key: "last", label: "Last seen", cell: (row) => row.last_at && ago(row.last_at) },
];

export default async function clients(view) {
  const { query, signal } = view;
  const attribute = query.getAll("attribute");
  const asked = { text: query.get("text"), online: query.get("online"), attribute };
  const filtered = Boolean(asked.text || asked.online || attribute.length);
  let count = 100;
  const more = await view.fresh(async () => {
    const found = await upto("clients", asked, count, signal);
    view.paint(
      heading("Clients", { note: "Who is connected now, or took part in a session that the journals know." }),
      filters(find(view, "text", "Search", "name"), pick(view, "online", "Presence", [["", "all"], ["true", "online"], ["false", "offline"]]),
        attribute.length > 0 && h("div.by.wide", { key: "attribute" }, h("span.label", "Attributes"), h("span.chips", attribute.map((each) => press([h("bdi", each), " \u00d7"], () => view.ask({ attribute: attribute.filter((other) => other !== each) }), { class: "chip", "aria-label": `Without ${each}` }))))),
      found.items.length ? h("div.card", table({ caption: "Clients", columns: COLUMNS, rows: found.items, id: (row) => row.client, mark: (row) => !row.online && "faded" }))
        : filtered ? empty("No client fits", "", h("a.button", { href: "#/clients" }, "Show all"))
          : empty("No client yet", h("span", "A client connects from where its data is: ", h("code", "fedbus client run MODULE:APP"), me.open ? "." : ", once its machine has joined."), !me.open && me.may("member.read") && h("a.button", { href: "#/members" }, "Members")),
      below(found, () => { count += 200; more(); }),
    );
  }, { kind: ["RoundClosed", "SessionStarted", "SessionEnded"], overview: true, pause_ms: 2000 });
}
