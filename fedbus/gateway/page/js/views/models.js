// The registry: every version, and which of them has a stage.

import { h } from "../dom.js";
import { ago, bytes, metrics } from "../format.js";
import { below, filters, find, pick, press, upto } from "../lists.js";
import { only } from "../me.js";
import { modelLink, sessionLink } from "../parts.js";
import { clear, collect, importModel, kept, retention, rollBack, stages, told } from "../registry.js";
import { go, href } from "../router.js";
import { card, digest, empty, heading, table, toast } from "../ui.js";

const COLUMNS = [
  { key: "version", label: "Version", head: true, cell: (row) => [modelLink(row.version), " ", stages(row.stages), " ", kept(row)] },
  { key: "session", label: "Session", narrow: false, cell: (row) => row.session ? sessionLink(row.session) : h("span.note", "imported") },
  { key: "metrics", label: "Metrics", class: "said", cell: (row) => metrics(row.metrics) },
  { key: "from", label: "Made from", narrow: false, cell: (row) => modelLink(row.parent) },
  { key: "parts", label: "Updates", num: true, narrow: false, title: "that it was made of", cell: (row) => row.participants || null },
  { key: "size", label: "Size", num: true, narrow: false, cell: (row) => bytes(row.nbytes) },
  { key: "digest", label: "Digest", narrow: false, cell: (row) => digest(row.digest) },
  { key: "note", label: "Note", narrow: false, cell: (row) => row.note && h("span.clip", { title: row.note }, row.note) },
  { key: "at", label: "Published", cell: (row) => ago(row.at) }];

const STAGES = (act) => [
  { key: "stage", label: "Stage", head: true, cell: (row) => h("bdi", row.stage) },
  { key: "version", label: "Version", cell: (row) => modelLink(row.version) },
  { key: "at", label: "Since", cell: (row) => ago(row.at) },
  { key: "told", label: "By, and why", class: "said", narrow: false, cell: (row) => h("span", { title: told(row) }, row.by, row.reason && h("span.note", `: ${row.reason}`)) },
  { key: "before", label: "Before it", narrow: false, cell: (row) => modelLink(row.before[0]) },
  { key: "do", label: "", cell: (row) => h("span.actions", row.before.length > 0 && only("model.promote", press("Roll back", act(() => rollBack(row)))), only("model.promote", press("Remove", act(() => clear(row)), { "aria-label": `Remove the stage ${row.stage}` }))) }];

export default async function models(view) {
  const asked = Object.fromEntries(["text", "session", "stage", "kept"].map((name) => [name, view.query.get(name)]));
  let count = 100;
  const act = (what, then = again) => async () => {
    try {
      const done = await what();
      if (done) then(done);
    } catch (error) { toast(error); }
  };
  const bring = () => only("model.import", press("Import", act(importModel, (made) => go(href(["models", made.version]))), { class: "primary" }));
  async function load() {
    const [found, named] = await Promise.all([upto("models", asked, count, view.signal), view.api.all("stages", { signal: view.signal })]);
    view.paint(
      heading("Models", { note: "Every version that was published or imported. What a stage names is never collected." }, only("retention.set", press("Retention", act(retention))), only("retention.set", press("Collect", act(collect))), bring()),
      named.length > 0 && card("Stages", {}, table({ caption: "Versions by stage", rows: named, id: (row) => row.stage, columns: STAGES(act) })),
      filters(find(view, "text", "Search", "version or note"), find(view, "session", "Session", "its whole name", "text"), pick(view, "stage", "Stage", [["", "all"], ...named.map((row) => [row.stage, row.stage])]),
        pick(view, "kept", "Arrays", [["", "all"], ...["kept", "archived", "retired", "removed"].map((each) => [each, each])])),
      found.items.length ? h("div.card", table({ caption: "Versions, newest first", columns: COLUMNS, rows: found.items, id: (row) => row.version, mark: (row) => row.kept === "removed" && "faded" }))
        : Object.values(asked).some(Boolean) ? empty("No version fits", "", h("a.button", { href: "#/models" }, "Show all"))
          : empty("No version yet", "Import the model that a first session begins with; each of its rounds publishes one more.", bring()),
      below(found, () => { count += 200; again(); }));
  }
  function again() { load().catch(toast); }
  await view.fresh(load, { kind: ["ModelPublished", "RoundEvaluated"], pause_ms: 500 });
}
