// What a waterfall shows: spans put under their parents, gathered by client, with the path that the round waited for.
// Pure functions, no document (tests run them in node).

// Whose work a span is: a client's name where it says one, else the role and name of who did it.
export function owner(span) {
  const client = span.role === "client" ? span.instance : span.attributes?.["fedbus.client"];
  return client ? `client ${client}` : `${span.role || "?"} ${span.instance || "?"}`;
}

function children(spans) {
  const ids = new Set(spans.map((span) => span.span_id));
  const under = new Map();
  for (const span of spans) {
    const parent = span.parent_id !== span.span_id && ids.has(span.parent_id) ? span.parent_id : "";
    under.set(parent, [...(under.get(parent) ?? []), span]);
  }
  for (const list of under.values()) list.sort((a, b) => a.start_at - b.start_at || a.end_at - b.end_at);
  return under;
}

// The spans that the end of the root waited for: backwards from its end, always the one that ended last before.
export function critical(spans) {
  const under = children(spans);
  const path = new Set();
  const walk = (span, until) => {
    path.add(span.span_id);
    let now = Math.min(until, span.end_at);
    const below = [...(under.get(span.span_id) ?? [])].sort((a, b) => b.end_at - a.end_at);
    for (const child of below) {
      if (child.end_at > now + 1e-3 || path.has(child.span_id)) continue;
      walk(child, now);
      now = Math.min(now, child.start_at);
    }
  };
  const roots = under.get("") ?? [];
  const root = roots.find((span) => span.name === "round") ?? roots[0];
  if (root) walk(root, root.end_at);
  return path;
}

// Rows from top to bottom: {span | group, depth, from, to, ...}; `open`: the groups whose spans are shown.
// Spans of the server's side stand one by one under the round; each client is a group that opens.
export function rows(spans, { open = new Set(), only = "" } = {}) {
  const under = children(spans);
  const path = critical(spans);
  const roots = under.get("") ?? [];
  const root = roots.find((span) => span.name === "round");
  const out = [];
  const groups = new Map();
  const seen = new Set();
  const add = (span, depth, group) => {
    if (seen.has(span.span_id)) return;
    seen.add(span.span_id);
    const who = group ? group.name : owner(span);
    if (!group && who.startsWith("client ")) {
      if (!groups.has(who)) groups.set(who, { name: who, tops: [] });
      groups.get(who).tops.push(span);
      return;
    }
    (group ? group.spans : out).push({ id: span.span_id, span, depth, from: span.start_at, to: span.end_at, critical: path.has(span.span_id), error: span.error });
    for (const child of under.get(span.span_id) ?? []) add(child, depth + 1, group);
  };
  if (root) add(root, 0);
  for (const span of roots) if (span !== root) add(span, root ? 1 : 0);
  for (const span of spans) add(span, 1); // a ring has no root: shown all the same
  for (const group of groups.values()) {
    group.spans = [];
    for (const span of group.tops) { seen.delete(span.span_id); add(span, 2, group); }
    group.from = Math.min(...group.spans.map((row) => row.from));
    group.to = Math.max(...group.spans.map((row) => row.to));
  }
  const asked = only.toLowerCase();
  const shown = [...groups.values()].filter((group) => !asked || group.name.toLowerCase().includes(asked) || group.spans.some((row) => row.span.name.toLowerCase().includes(asked)));
  for (const group of shown.sort((a, b) => b.to - a.to || a.from - b.from)) {
    const opened = open.has(group.name);
    out.push({ id: group.name, group: group.name, spans: group.spans, depth: 1, from: group.from, to: group.to, open: opened, critical: group.spans.some((row) => row.critical), error: group.spans.find((row) => row.error)?.error ?? "" });
    if (opened) out.push(...group.spans);
  }
  return out;
}

// When the first span began and the last ended.
export function extent(spans) {
  if (!spans.length) return [0, 1];
  const from = Math.min(...spans.map((span) => span.start_at));
  const to = Math.max(...spans.map((span) => span.end_at));
  return [from, to > from ? to : from + 1e-3];
}

// Round marks for a time axis of about `count` steps, as seconds since `from`.
export function marks(width, count = 6) {
  const raw = width / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
  return Array.from({ length: Math.floor(width / step + 1e-9) + 1 }, (_, index) => index * step);
}
