// Elements without HTML strings: what strangers have named is text, always. And painting: a tree is built anew from
// data, and what stands in the document is changed to it, so that focus, scroll and what was typed stay.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "indeterminate", "selected", "disabled", "open", "hidden"]);

/**
 * An element: h("button.primary#go", {onclick, disabled, "aria-label": "Go", css: {"--x": 3}, key}, ...children).
 *
 * Props: `on...` listeners; `css` properties through CSSOM (the policy forbids style attributes); `key` names it among
 * its siblings; `keep: true` its children are left alone by `paint` (charts, what a library draws); `made(node)` is
 * called once, when it gets into the document first. Children: nodes, texts, numbers, arrays; null and false are left out.
 */
export function h(tag, props, ...children) {
  return make(null, tag, props, children);
}

/** The same for SVG. */
export function s(tag, props, ...children) {
  return make(SVG, tag, props, children);
}

function make(space, tag, props, children) {
  const [, name, rest] = /^([\w-]+)(.*)$/.exec(tag);
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  if (props instanceof Node || typeof props !== "object" || props === null || Array.isArray(props)) {
    children.unshift(props);
    props = {};
  }
  const given = { ...props };
  const classes = [];
  for (const [, sign, word] of rest.matchAll(/([.#])([\w-]+)/g)) sign === "#" ? (given.id = word) : classes.push(word);
  if (given.class) classes.push(given.class);
  if (classes.length) given.class = classes.join(" ");
  node.props = given;
  append(node, children);
  for (const [key, value] of Object.entries(given)) apply(node, key, value, undefined);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child instanceof Node) node.append(child);
    else if (child !== null && child !== undefined && child !== false && child !== true) node.append(String(child));
  }
}

function apply(node, key, value, before) {
  if (key === "key" || key === "keep" || key === "made") return;
  if (key.startsWith("on")) return listen(node, key.slice(2));
  if (key === "css") return style(node, value ?? {}, before ?? {});
  if (PROPERTIES.has(key) && key in node) {
    if (key === "value" || key === "selected") node[key] = value ?? "";
    else node[key] = Boolean(value);
    if (key === "value" && node.tagName === "OPTION") node.setAttribute("value", value ?? "");
    return;
  }
  if (key.startsWith("aria-") && value !== null && value !== undefined) node.setAttribute(key, String(value));
  else if (value === null || value === undefined || value === false) node.removeAttribute(key);
  else node.setAttribute(key, value === true ? "" : String(value));
}

// One listener looks up the newest function, so that painting need not take listeners off.
function listen(node, type) {
  node.heard ??= new Set();
  if (node.heard.has(type)) return;
  node.heard.add(type);
  node.addEventListener(type, (event) => node.props[`on${type}`]?.call(node, event));
}

function style(node, now, before) {
  for (const key of Object.keys(before)) if (!(key in now)) node.style.removeProperty(key);
  for (const [key, value] of Object.entries(now)) if (before[key] !== value) node.style.setProperty(key, String(value));
}

/** Give an element one more attribute before it is painted. */
export function give(node, key, value) {
  node.props[key] = value;
  apply(node, key, value);
}

/**
 * Change what `root` holds into `children`; elements of the same tag and key stay themselves. A control that goes while
 * it has the focus leaves it to what comes into its place.
 */
export function paint(root, ...children) {
  const draft = document.createDocumentFragment();
  append(draft, children);
  const held = trail(root);
  patch(root, [...draft.childNodes]);
  handOn(root, held);
}

const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]";
const takes = (node) => node?.matches(CONTROLS) && !node.disabled && node.checkVisibility();
const inside = (node) => takes(node) ? node : [...node?.querySelectorAll(CONTROLS) ?? []].find(takes);

// From what has the focus up to `root`: each with its parent, and its place there.
function trail(root) {
  const steps = [];
  let node = document.activeElement;
  if (root.contains(node)) for (; node !== root; node = node.parentElement) steps.push([node, node.parentElement, [...node.parentElement.children].indexOf(node)]);
  return steps;
}

function handOn(root, steps) {
  const [node] = steps[0] ?? [];
  if (!node || (root.contains(node) && !node.disabled)) return;
  let next;
  steps.forEach(([, parent, index], at) => {
    if (next || parent === root || !root.contains(parent)) return;
    const place = parent.children[index] ?? parent.children[index - 1];
    const same = steps.slice(0, at).reduceRight((found, [, , nth]) => found?.children[nth], place); // the same control, in the next row
    next = takes(same) ? same : inside(place) ?? inside(parent);
  });
  (next ?? root.querySelector("h1") ?? inside(root))?.focus({ preventScroll: true });
}

function patch(root, wanted) {
  const keyed = new Map();
  for (const node of root.childNodes) if (node.props?.key !== undefined) keyed.set(String(node.props.key), node);
  let at = root.firstChild;
  const fresh = [];
  for (const next of wanted) {
    const key = next.props?.key;
    let found = key === undefined ? at : keyed.get(String(key));
    while (found && key === undefined && found.props?.key !== undefined) found = found.nextSibling;
    if (found && alike(found, next)) {
      if (found === at) at = at.nextSibling;
      else root.insertBefore(found, at);
      update(found, next);
    } else {
      root.insertBefore(next, at);
      fresh.push(next);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
  for (const node of fresh) announce(node);
}

function announce(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return;
  for (const inner of [node, ...node.querySelectorAll("*")]) inner.props?.made?.(inner);
}

function alike(one, other) {
  return one.nodeName === other.nodeName && one.nodeType === other.nodeType && one.props?.key === other.props?.key &&
    Boolean(one.props) === Boolean(other.props) && one.props?.type === other.props?.type;
}

function update(node, next) {
  if (node === next) return;
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.nodeValue !== next.nodeValue) node.nodeValue = next.nodeValue;
    return;
  }
  const before = node.props ?? {};
  const now = next.props ?? {};
  node.props = now;
  if (!now.keep) patch(node, [...next.childNodes]);
  for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
    if (before[key] !== now[key]) apply(node, key, now[key], before[key]);
  }
}

export const $ = (selector, root = document) => root.querySelector(selector);
