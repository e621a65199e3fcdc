// One version: what it is, where it comes from, what became of it.

import { chart } from "../chart.js";
import { h, paint, s } from "../dom.js";
import { ago, bytes, metrics, number } from "../format.js";
import { collapse, layout, neighbour } from "../lineage.js";
import { press } from "../lists.js";
import { only } from "../me.js";
import { clientLink, modelLink, sessionLink } from "../parts.js";
import { annotate, kept, promote, remove, rollBack, stages, told } from "../registry.js";
import { href } from "../router.js";
import { card, copyable, facts, failure, heading, table, toast } from "../ui.js";

const [WIDTH, HEIGHT, GAP, LANE] = [176, 54, 40, 74]; // pixels: a node, between columns, from lane to lane
const x = (node) => 8 + node.column * (WIDTH + GAP);
const y = (node) => 12 + node.lane * LANE;

// The drawing of a lineage: lines are SVG, versions are links that arrows lead through.
function family(versions, now, open, again) {
  const { nodes, edges, columns, lanes } = layout(collapse(versions, { keep: new Set([now]), open }));
  const at = new Map(nodes.map((node) => [node.id, node]));
  const line = ({ from, to }) => {
    const [x1, y1, x2, y2] = [x(at.get(from)) + WIDTH, y(at.get(from)) + HEIGHT / 2, x(at.get(to)), y(at.get(to)) + HEIGHT / 2];
    return s("path", { d: `M${x1} ${y1}C${x1 + GAP} ${y1} ${x2 - GAP} ${y2} ${x2} ${y2}` });
  };
  const move = (event) => {
    const id = neighbour(nodes, event.target.closest("li")?.dataset.id, event.key);
    if (id === undefined) return;
    event.preventDefault();
    [...event.currentTarget.children].find((node) => node.dataset.id === id)?.firstChild.focus();
  };
  const node = (each) => {
    const [first] = each.versions;
    const text = (name, note) => [h("strong", h("bdi", name)), h("span.note", note)];
    return h("li", { key: each.id, "data-id": each.id, css: { left: `${x(each)}px`, top: `${y(each)}px`, width: `${WIDTH}px`, height: `${HEIGHT}px` } }, each.versions.length > 1
      ? h("button.node.many", { type: "button", title: "show them one by one", onclick: () => { open.add(each.id); again(); } }, text(`${each.versions.length} versions`, `${first.session}, rounds ${first.round} to ${each.versions.at(-1).round}`))
      : h("a.node", { href: href(["models", first.version]), class: first.kept === "removed" ? "faded" : null, "aria-current": first.version === now ? "true" : null, title: first.version },
        text(first.version, metrics(first.metrics) || (!first.session ? "imported" : first.round ? `round ${first.round}` : "its beginning")), first.stages.length > 0 && h("span.stages", stages(first.stages))));
  };
  const [width, height] = [8 + columns * (WIDTH + GAP), 20 + lanes * LANE];
  const made = (root) => { if (at.has(now)) root.scrollLeft = x(at.get(now)) - (root.clientWidth - WIDTH) / 2; };
  return h("div.family.scroll", { role: "region", tabindex: 0, "aria-label": "From version to version, oldest on the left; arrow keys move", made },
    h("div", { css: { width: `${width}px`, height: `${height}px` } }, s("svg", { width, height, "aria-hidden": "true" }, edges.map(line)), h("ul", { onkeydown: move }, nodes.map(node))));
}

// Each metric, and how it differs from the version that this one was made from.
const measured = (model, parent) => facts(Object.keys(model.metrics).sort().map((name) => {
  const off = model.metrics[name] - (parent?.metrics[name] ?? NaN);
  return [name, [h("strong", number(model.metrics[name])), Number.isFinite(off) && h("span.note", ` ${off < 0 ? "\u2212" : "+"}${number(Math.abs(off))} to ${parent.version}`)]];
}));

function settings(config) {
  const rows = Object.entries(config).filter(([, value]) => value !== null && !["", "{}", "[]"].includes(typeof value === "string" ? value : JSON.stringify(value)));
  return h("details", h("summary", `${rows.length} settings of its session`), table({ caption: "Settings", dense: true, rows, id: ([name]) => name, columns: [
    { key: "name", label: "Setting", head: true, cell: ([name]) => h("code", name) }, { key: "value", label: "Value", cell: ([, value]) => h("code.break", typeof value === "string" ? value : JSON.stringify(value)) }] }));
}

function verify({ version, digest }) {
  const command = `python -c "from fedbus.tensors import model_digest, read; print(model_digest(read('${version}.safetensors')))"`;
  return h("details", h("summary", "How to verify a download"), h("p.note", "The digest is BLAKE3 of the arrays' bytes, whatever file they are in. ", h("code", "fedbus model download"), " checks it by itself; for a file that came another way ", copyable(command, "copy this"), ":"),
    h("pre", { tabindex: 0 }, `${command}\n${digest}`));
}

export default async function version(view) {
  const { params: { version: name }, api, signal } = view;
  const open = new Set();
  const charts = new Map();
  let model, lineage, named, text;
  const act = (what) => async () => {
    try { if (await what()) await load(); } catch (error) { toast(error); }
  };
  const readCard = async ({ target }) => {
    if (!target.open || text) return;
    const place = target.querySelector("pre");
    try { place.textContent = text = await api.get(["models", name, "card"], { signal }); } catch (error) { paint(place, failure(error)); }
  };
  const plot = (metric, series) => h("div", { key: metric, keep: true, made: (node) => charts.set(metric, chart(node, { title: `${metric} of its session`, height: 150, series }, signal)) });
  function draw() {
    const versions = lineage.versions.length ? lineage.versions : [model];
    const own = model.session ? versions.filter((one) => one.session === model.session) : [];
    const curves = own.length > 1 ? Object.keys(model.metrics).sort().slice(0, 6).map((metric) => [metric, [{ name: model.session, points: own.map((one) => [one.round, one.metrics[metric] ?? null]) }]]) : [];
    const there = model.kept !== "removed";
    view.paint(
      heading(h("bdi", name), { back: h("a", { href: "#/models" }, "Models"), badges: [stages(model.stages), " ", kept(model)], note: model.note },
        there && [only("model.download", h("a.button.primary", { href: api.url(["models", name, "content"]), download: `${name}.safetensors` }, "Download")), only("model.promote", press("Promote", act(() => promote(name))))],
        only("model.annotate", press(model.note ? "Change the note" : "Add a note", act(() => annotate(model)))),
        there && only("session.start", h("a.button", { href: href("sessions/new", { model: name }) }, "Start a session")), ["kept", "archived"].includes(model.kept) && only("model.remove", press("Remove", act(() => remove(model)), { class: "danger" }))),
      h("div.grid2",
        card("What it is", {}, facts([
          ["digest", copyable(model.digest)], ["size", `${bytes(model.nbytes)} in ${number(model.arrays.length)} arrays`], ["published", ago(model.at)],
          ["session", model.session ? [sessionLink(model.session), model.round ? [", ", h("a", { href: href(["sessions", model.session], { round: model.round }) }, `round ${model.round}`)] : ", its beginning"] : "imported"],
          ["made from", modelLink(model.parent)], ["strategy", model.strategy], ["arrays", { kept: "on the bus", archived: "in the store behind the bus", retired: "about to be removed", removed: "removed" }[model.kept]],
          ["went on as", model.children.length > 0 && model.children.slice(0, 12).map((child) => h("div", modelLink(child)))]]), there && verify(model)),
        card("Metrics", {}, Object.keys(model.metrics).length ? measured(model, versions.find((one) => one.version === model.parent)) : h("p.empty-line", "Nobody has evaluated it."), h("div.charts", curves.map((each) => plot(...each))))),
      card("Lineage", { aside: `${number(versions.length)} versions` }, family(versions, name, open, draw)),
      model.stages.length > 0 && card("Stages", {}, h("ul.plain", named.filter((stage) => stage.version === name).map((stage) => h("li", { key: stage.stage }, h("strong", stage.stage), ` ${told(stage)} `,
        stage.before.length > 0 && [h("span.note", `before it: ${stage.before.slice(0, 5).join(", ")} `), only("model.promote", press("Roll back", act(() => rollBack(stage))))])))),
      h("div.grid2",
        card("Participants", { aside: model.participants > 0 && `${number(model.participants)} updates` }, model.clients.length ? h("p.links", model.clients.slice(0, 200).map(clientLink), model.clients.length > 200 && `and ${number(model.clients.length - 200)} more`)
          : h("p.empty-line", model.session ? "Its session does not tell who they were." : "It was imported: nobody here trained it.")),
        card("Arrays", { aside: bytes(model.nbytes) }, table({ caption: "Names and shapes", dense: true, rows: model.arrays.slice(0, 500), id: (row) => row.name, columns: [
          { key: "name", label: "Name", head: true, cell: (row) => h("code.break", row.name) }, { key: "dtype", label: "Type" }, { key: "shape", label: "Shape", cell: (row) => row.shape.join(" \u00d7 ") || "one number" }] }))),
      card("More", {}, model.config && settings(model.config), h("details", { ontoggle: readCard }, h("summary", "Model card"), h("pre", { keep: true, tabindex: 0 }), h("p", h("a", { href: api.url(["models", name, "card"]) }, "as a file")))));
    for (const [metric, series] of curves) charts.get(metric)?.update({ series });
  }
  async function load() {
    [model, lineage, named] = await Promise.all([api.get(["models", name], { signal }), api.get(["models", name, "lineage"], { signal }), api.all("stages", { signal })]);
    draw();
  }
  await view.fresh(load, { kind: ["ModelPublished", "RoundEvaluated"], pause_ms: 1000 });
}
