// What a waterfall shows: spans put under their parents, gathered by client, with the path that the round waited for.
// Pure functions, no document.

/** Whose work a span is: a client's name where it says one, else the role and name of who did it. */
export function owner(span) {
  const client = span.role === "client" ? span.instance : span.attributes?.["fedbus.client"];
  return client ? `client ${client}` : `${span.role || "?"} ${span.instance || "?"}`;
}

// By parent, "" for those whose parent is not known; each list by start. And the round's own span, if it has ended.
function tree(spans) {
  const ids = new Set(spans.map((span) => span.span_id));
  const under = new Map();
  for (const span of [...spans].sort((a, b) => a.start_at - b.start_at || a.end_at - b.end_at)) {
    const parent = span.parent_id !== span.span_id && ids.has(span.parent_id) ? span.parent_id : "";
    if (!under.has(parent)) under.set(parent, []);
    under.get(parent).push(span);
  }
  const below = (id) => under.get(id) ?? [];
  return { below, root: below("").find((span) => span.name === "round") ?? below("")[0] };
}

/**
 * What the end of the round waited for: backwards from it, always the span that ended last before. Clients do not wait
 * for each other, so of them it is only the last.
 */
export function critical(spans) {
  const { below, root } = tree(spans);
  const path = new Set();
  const walk = (span, until) => {
    path.add(span.span_id);
    let now = Math.min(until, span.end_at);
    let client = "";
    for (const child of [...below(span.span_id)].sort((a, b) => b.end_at - a.end_at)) {
      if (child.end_at > now + 1e-3 || path.has(child.span_id)) continue;
      const who = owner(child).startsWith("client ") ? owner(child) : "";
      if (client && who && who !== client) continue;
      client ||= who;
      walk(child, now);
      now = Math.min(now, child.start_at);
    }
  };
  if (root) walk(root, root.end_at);
  return path;
}

/**
 * Rows from top to bottom: {id, span | group, depth, from, to, critical, error, spans, open}. The server's side stands span
 * by span under the round; each client is a group (the slowest first), whose spans follow it when it is in `open`.
 */
export function rows(spans, { open = new Set(), only = "" } = {}) {
  const { below, root } = tree(spans);
  const path = critical(spans);
  const out = [];
  const groups = new Map();
  const seen = new Set();
  const add = (span, depth, group) => {
    if (seen.has(span.span_id)) return;
    seen.add(span.span_id);
    const who = owner(span);
    if (!group && who.startsWith("client ")) {
      if (!groups.has(who)) groups.set(who, []);
      group = groups.get(who);
      depth = 2;
    }
    (group ?? out).push({ id: span.span_id, span, depth, from: span.start_at, to: span.end_at, critical: path.has(span.span_id), error: span.error });
    for (const child of below(span.span_id)) add(child, depth + 1, group);
  };
  if (root) add(root, 0);
  for (const span of [...below(""), ...spans]) add(span, 1); // spans without a parent, and of a ring
  const text = only.toLowerCase();
  const grouped = [...groups].map(([group, inner]) => ({ id: group, group, spans: inner, depth: 1, open: open.has(group), from: Math.min(...inner.map((row) => row.from)),
    to: Math.max(...inner.map((row) => row.to)), critical: inner.some((row) => row.critical), error: inner.find((row) => row.error)?.error ?? "" }));
  for (const row of grouped.sort((a, b) => b.to - a.to || a.from - b.from)) {
    if (text && !row.group.toLowerCase().includes(text) && !row.spans.some((one) => one.span.name.toLowerCase().includes(text))) continue;
    out.push(row, ...(row.open ? row.spans : []));
  }
  return out;
}

/** When the first span began and the last ended. */
export function extent(spans) {
  const from = spans.reduce((least, span) => Math.min(least, span.start_at), Infinity);
  const to = spans.reduce((most, span) => Math.max(most, span.end_at), -Infinity);
  return spans.length ? [from, Math.max(to, from + 1e-3)] : [0, 1];
}

/** Round marks for an axis of about `count` steps. */
export function marks(width, count) {
  const power = 10 ** Math.floor(Math.log10(width / count));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= width / count * (1 - 1e-9));
  return Array.from({ length: Math.floor(width / step + 1e-9) + 1 }, (_, nth) => nth * step);
}
