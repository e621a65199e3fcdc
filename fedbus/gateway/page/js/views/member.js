// One member: its state and who decided it, its key, what it says of itself.

import { deeds, keyText } from "../access.js";
import { h } from "../dom.js";
import { ago, moment } from "../format.js";
import { clientLink } from "../parts.js";
import { href } from "../router.js";
import { badge, card, facts, heading } from "../ui.js";
import { chips } from "./clients.js";

const at = (value) => value && h("span", { title: moment(value) }, moment(value));

export default async function member(view) {
  const { params: { role, member: name }, api, signal } = view;
  view.title(name);
  const again = await view.fresh(async () => {
    const found = await api.get(["members", role, name], { signal });
    view.paint(
      heading(h("bdi", name), { back: h("a", { href: "#/members" }, "Members"), note: role, badges: [badge(found.state), " ", found.state === "active" && badge(found.online ? "online" : "offline")] }, deeds(found, () => again())),
      card("Identity", {}, facts([
        ["key", keyText(found.key)], ["state since", ago(found.at)], ["decided by", found.by], ["reason", found.reason], ["owner", found.owner && h("bdi", found.owner)],
        ["joined by token", found.joined_by && h("a", { href: href("tokens", { text: found.joined_by }) }, found.joined_by)], ["signed", at(found.issued_at)], ["good until", found.issued_at && (at(found.expires_at) || "it is taken away")]])),
      card("Presence", { aside: ["client", "crowd"].includes(role) && clientLink(name) }, facts([
        ["there", found.online ? "yes" : "no"], ["doing", found.doing], ["last seen", found.seen_at && ago(found.seen_at)], ["attributes", chips(found.attributes)]])),
      h("p", h("a", { href: href("audit", { target: `${role}/${name}` }) }, "What was done to it")));
  }, { events: false, overview: true, pause_ms: 1500 });
  view.every(3000, again);
}
