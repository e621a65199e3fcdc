// Where versions stand in the drawing of their lineage: pure functions, no document.
//
// Columns are generations, rows are lanes: a line of versions keeps its lane, a branch takes a free one. A run of
// versions that nobody asks about (one parent, one child, same session, no stage) is drawn as one node.

const RUN_MIN = 3;

/**
 * Fold runs of `RUN_MIN` and more into one node each: [{id, versions, parent, session}], oldest first.
 * `keep`: versions that stay on their own; `open`: runs (their first versions) that the reader has opened.
 */
export function collapse(versions, { keep = new Set(), open = new Set() } = {}) {
  const known = new Map(versions.map((one) => [one.version, one]));
  const under = new Map(versions.map((one) => [one.version, []]));
  for (const one of versions) under.get(one.parent)?.push(one);
  const only = (one) => under.get(one.version).length === 1 ? under.get(one.version)[0] : undefined;
  const inner = (one) => one && !one.stages?.length && !keep.has(one.version) && known.has(one.parent) && only(known.get(one.parent)) === one
    && known.get(one.parent).session === one.session && only(one)?.session === one.session;
  const nodes = [];
  const inside = new Map();
  const add = (part) => {
    nodes.push({ id: part[0].version, versions: part, parent: part[0].parent, session: part[0].session });
    for (const one of part) inside.set(one.version, part[0].version);
  };
  for (const first of versions) {
    const before = known.get(first.parent);
    if (inside.has(first.version) || (inner(first) && inner(before) && !inside.has(before.version))) continue; // a run takes it along
    const run = [first];
    if (inner(first)) for (let next = only(first); inner(next) && !run.includes(next); next = only(next)) run.push(next);
    if (run.length >= RUN_MIN && !open.has(first.version)) add(run);
    else for (const one of run) add([one]);
  }
  for (const one of versions) if (!inside.has(one.version)) add([one]); // of a ring, which no honest registry has
  return nodes.map((node) => ({ ...node, parent: inside.get(node.parent) ?? "" }));
}

/** Give every node its column and lane: {nodes, edges, columns, lanes}. */
export function layout(nodes) {
  const under = new Map(nodes.map((node) => [node.id, []]));
  for (const node of nodes) if (node.parent !== node.id) under.get(node.parent)?.push(node);
  const placed = new Map();
  const lanes = []; // of each lane the columns that are taken: [[from, to], ...]
  const free = (from, to, lane) => {
    while (lanes[lane]?.some(([first, last]) => first <= to && from <= last)) lane += 1;
    return lane;
  };
  const place = (start) => {
    const waiting = [[start, 0, 0]];
    for (const [node, column, above] of waiting) {
      const line = [];
      for (let one = node; one && !placed.has(one.id) && !line.includes(one);) {
        line.push(one);
        const next = under.get(one.id);
        one = next.find((child) => child.session === one.session) ?? (next.length === 1 ? next[0] : undefined);
      }
      if (!line.length) continue;
      const to = column + line.length - 1;
      const lane = free(Math.max(column - 1, 0), to, above); // the column before: there the branch leaves its line
      (lanes[lane] ??= []).push([column, to]);
      line.forEach((one, nth) => placed.set(one.id, { ...one, column: column + nth, lane }));
      line.forEach((one, nth) => under.get(one.id).forEach((child) => { if (child !== line[nth + 1]) waiting.push([child, column + nth + 1, lane + 1]); }));
    }
  };
  for (const node of nodes) if (!under.has(node.parent) || node.parent === node.id) place(node);
  for (const node of nodes) if (!placed.has(node.id)) place(node);
  const out = [...placed.values()];
  return { nodes: out, columns: 1 + Math.max(-1, ...out.map((node) => node.column)), lanes: lanes.length,
    edges: out.filter((node) => node.parent !== node.id && placed.has(node.parent)).map((node) => ({ from: node.parent, to: node.id })) };
}

/** The node that an arrow key leads to: along the line, or to the nearest of another lane. */
export function neighbour(nodes, id, key) {
  const here = nodes.find((node) => node.id === id);
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key] ?? [0, 0];
  if (!here || (!dx && !dy)) return undefined;
  const far = (node) => {
    const [x, y] = [node.column - here.column, node.lane - here.lane];
    const ahead = x * dx + y * dy;
    if (ahead <= 0) return Infinity;
    return (dx > 0 && node.parent === id) || (dx < 0 && here.parent === node.id) ? 0 : ahead + 3 * Math.abs(x * dy + y * dx);
  };
  const best = nodes.reduce((one, other) => far(other) < far(one) ? other : one, here);
  return best === here ? undefined : best.id;
}
