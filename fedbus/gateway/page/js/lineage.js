// Where versions stand in the drawing of their lineage: pure functions, no document (tests run them in node).
//
// Columns are generations, rows are lanes: a line of versions keeps its lane, a branch takes a free one. A run of
// versions that nobody asks about (one parent, one child, same session, no stage) is drawn as one node.

const RUN_MIN = 3;

function family(versions) {
  const known = new Map(versions.map((version) => [version.version, version]));
  const children = new Map(versions.map((version) => [version.version, []]));
  for (const version of versions) if (version.parent !== version.version) children.get(version.parent)?.push(version.version);
  return { known, children };
}

// Fold runs of `RUN_MIN` and more into one node each; `keep`: versions that stay on their own; `open`: runs (by their
// first version) that the reader has opened. Nodes: {id, versions, parent, session}; oldest first.
export function collapse(versions, { keep = new Set(), open = new Set() } = {}) {
  const { known, children } = family(versions);
  const inner = (version) => known.has(version.parent) && known.get(version.parent).session === version.session
    && children.get(version.parent).length === 1 && children.get(version.version).length === 1
    && !version.stages?.length && !keep.has(version.version) && known.get(children.get(version.version)[0]).session === version.session;
  const nodes = [];
  const node = new Map();
  const done = new Set();
  for (const first of versions) {
    if (done.has(first.version)) continue;
    const run = [first];
    if (inner(first)) {
      if (inner(known.get(first.parent)) && !done.has(first.parent)) continue; // its run begins earlier, and takes it along
      for (let next = known.get(children.get(first.version)[0]); next && inner(next) && !run.includes(next); next = known.get(children.get(next.version)[0])) run.push(next);
    }
    const folded = run.length >= RUN_MIN && !open.has(first.version);
    for (const part of folded ? [run] : run.map((version) => [version])) {
      nodes.push({ id: part[0].version, versions: part, parent: part[0].parent, session: first.session, run: run.length >= RUN_MIN ? first.version : "" });
      for (const version of part) { done.add(version.version); node.set(version.version, part[0].version); }
    }
  }
  for (const version of versions) if (!done.has(version.version)) nodes.push({ id: version.version, versions: [version], parent: version.parent, session: version.session, run: "" }), node.set(version.version, version.version); // of a ring
  for (const each of nodes) each.parent = node.get(each.parent) ?? "";
  return nodes;
}

// Give every node its column and lane; returns {nodes, edges, columns, lanes}. Rings (which no honest registry has) end.
export function layout(nodes) {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const children = new Map(nodes.map((node) => [node.id, []]));
  const roots = [];
  for (const node of nodes) (byId.has(node.parent) && node.parent !== node.id ? children.get(node.parent) : roots).push(node);
  const placed = new Map();
  const busy = []; // of each lane: spans of columns that are taken, [from, to]
  const free = (from, to, above) => {
    for (let lane = above; ; lane += 1) if (!(busy[lane] ?? []).some(([first, last]) => first <= to && from <= last)) return lane;
  };
  const lines = (start) => {
    const waiting = [start];
    while (waiting.length) {
      const { node, column, above } = waiting.shift();
      const line = [];
      for (let each = node; each && !placed.has(each.id) && !line.includes(each);) {
        line.push(each);
        const next = children.get(each.id);
        each = next.find((child) => child.session === each.session) ?? (next.length === 1 ? next[0] : undefined);
      }
      if (!line.length) continue;
      const lane = free(column - (column ? 1 : 0), column + line.length - 1, above);
      (busy[lane] ??= []).push([column, column + line.length - 1]);
      line.forEach((each, index) => placed.set(each.id, { ...each, column: column + index, lane }));
      line.forEach((each, index) => {
        for (const child of children.get(each.id)) if (child !== line[index + 1]) waiting.push({ node: child, column: column + index + 1, above: lane + 1 });
      });
    }
  };
  for (const root of roots) lines({ node: root, column: 0, above: 0 });
  for (const node of nodes) if (!placed.has(node.id)) lines({ node, column: 0, above: 0 });
  const out = [...placed.values()];
  const edges = out.filter((node) => node.parent !== node.id && placed.has(node.parent)).map((node) => ({ from: node.parent, to: node.id }));
  return { nodes: out, edges, columns: 1 + Math.max(-1, ...out.map((node) => node.column)), lanes: busy.length };
}

// The node that an arrow key leads to from `id`: along the line, or to the nearest of another lane.
export function neighbour(nodes, id, key) {
  const here = nodes.find((node) => node.id === id);
  if (!here) return undefined;
  const ahead = { ArrowRight: (n) => n.column - here.column, ArrowLeft: (n) => here.column - n.column, ArrowDown: (n) => n.lane - here.lane, ArrowUp: (n) => here.lane - n.lane }[key];
  if (!ahead) return undefined;
  const kin = (n) => (key === "ArrowRight" ? n.parent === here.id : key === "ArrowLeft" ? n.id === here.parent : false);
  const side = (n) => (key === "ArrowRight" || key === "ArrowLeft" ? Math.abs(n.lane - here.lane) : Math.abs(n.column - here.column));
  return nodes.filter((n) => ahead(n) > 0).sort((a, b) => kin(b) - kin(a) || ahead(a) + 3 * side(a) - ahead(b) - 3 * side(b))[0]?.id;
}
