// What all views are made of: badges, tables, dialogs, toasts, empty states. See each for how it is used.

import { give, h, paint } from "./dom.js";
import { NONE } from "./format.js";

/** What a state looks like: a sign besides the colour, for those who do not see it. */
const TONES = {
  ok: ["completed", "closed", "counted", "ok", "kept", "online", "accepted", "active", "open", "done"],
  run: ["running", "training", "closing", "starting", "uploading", "fetching", "evaluating", "leads"],
  wait: ["waiting", "stale", "late", "archived", "suspended"],
  bad: ["failed", "refused", "lost", "error", "expelled"],
  off: ["stopped", "missed", "removed", "retired", "offline", "used", "expired", "revoked"],
};
const SIGNS = { ok: "\u2713", run: "\u25b6", wait: "\u25f7", bad: "\u2715", off: "\u25a0", none: "" };

export const tone = (state) => Object.keys(TONES).find((key) => TONES[key].includes(state)) ?? "none";

/** badge("running"), badge("production", "ok") */
export function badge(text, as = tone(text)) {
  return h(`span.badge.${as}`, SIGNS[as] && h("span.sign", { "aria-hidden": true }, SIGNS[as]), text);
}

/** A heading with what can be done beside it: heading("Models", {back, note}, button, button). */
export function heading(text, { back, note, badges } = {}, ...actions) {
  return h("div.heading", h("div", back && h("p.crumbs", back), h("h1", { tabindex: -1 }, text, badges && [" ", badges]), note && h("p.note", note)),
    actions.length > 0 && h("div.actions", actions));
}

/** A section with a heading: card("Rounds", {id, aside}, ...). */
export function card(title, { aside, id, class: kind = "", key } = {}, ...children) {
  const name = id ?? `s-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return h("section.card", { class: kind, "aria-labelledby": name, key },
    h("div.card-head", h("h2", { id: name }, title), aside && h("div.aside", aside)), children);
}

/** Key and value, in a list: facts([["codec", "int8"], ["digest", copyable(digest)]]); empty values are left out. */
export function facts(rows) {
  return h("dl.facts", rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
    .map(([name, value]) => h("div", { key: name }, h("dt", name), h("dd", value))));
}

/**
 * A table. columns: [{key, label, num, cell(row), sort, narrow: false, head: true, title}]; rows: objects; id(row): its key.
 * `sort`: {by, down} and `onsort(key)` make heads with `sort` into buttons. `narrow: false` hides a column below 640 px.
 * `mark(row)`: a class. `empty`: what is said in place of rows.
 */
export function table({ caption, columns, rows, id, sort, onsort, mark, empty = "nothing yet", dense }) {
  if (!rows.length) return typeof empty === "string" ? h("p.empty-line", empty) : empty;
  const kind = (column) => [column.num && "num", column.narrow === false && "wide", column.class].filter(Boolean).join(" ") || null;
  const head = columns.map((column) => {
    const by = sort?.by === column.key;
    return h("th", { scope: "col", key: column.key, class: kind(column), title: column.title, "aria-sort": by ? (sort.down ? "descending" : "ascending") : null },
      column.sort && onsort ? h("button.sort", { type: "button", onclick: () => onsort(column.key) }, column.label,
        h("span", { "aria-hidden": true }, by ? (sort.down ? " \u2193" : " \u2191") : "")) : column.label || h("span.sr", "actions"));
  });
  const body = rows.map((row) => h("tr", { key: id ? id(row) : undefined, class: mark?.(row) },
    columns.map((column) => h(column.head ? "th" : "td", { key: column.key, scope: column.head ? "row" : null, class: kind(column) }, cell(column, row)))));
  return h("div.scroll", { role: "region", tabindex: 0, "aria-label": caption },
    h("table", { class: dense ? "dense" : null }, h("caption.sr", caption), h("thead", h("tr", head)), h("tbody", body)));
}

function cell(column, row) {
  const value = column.cell ? column.cell(row) : row[column.key];
  return value === null || value === undefined || value === "" ? NONE : value;
}

/** Sort rows by what a column's `sort(row)` says. */
export function sorted(rows, columns, { by, down } = {}) {
  const column = columns.find((one) => one.key === by && one.sort);
  if (!column) return rows;
  const value = typeof column.sort === "function" ? column.sort : (row) => row[column.key];
  const sign = down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b) * sign;
  });
}

/** Nothing is there yet, and what to do about it. */
export function empty(title, text, ...actions) {
  return h("div.empty", h("p.big", title), text && h("p", text), actions.length > 0 && h("p.actions", actions));
}

export function loading() {
  return h("div.loading", { "aria-busy": true }, h("span.sr", "loading"), h("div.bone.w1"), h("div.bone.w2"), h("div.bone.w3"));
}

/** A `Problem` for people: title, detail, fields. */
export function failure(error) {
  return h("div.problem", { role: "alert" }, h("p.big", error.title || "This did not work"),
    h("p", error.detail || error.message),
    error.errors?.length > 0 && h("ul", error.errors.map((one) => h("li", h("code", one.where), " ", one.problem))),
    error.status ? h("p.note", `status ${error.status}${error.state ? `, state ${error.state}` : ""}`) : null);
}

/** A short message at the edge; toast("saved"), toast(problem). Errors stay until they are closed. */
export function toast(what, as = what instanceof Error ? "bad" : "ok") {
  const text = what instanceof Error ? [h("strong", what.title || "Error"), " ", what.detail || (what.title ? "" : what.message)] : what;
  const close = () => {
    const held = node.contains(document.activeElement);
    node.remove();
    if (held) ["#toasts button", "dialog[open] button", "main h1"].map((one) => document.querySelector(one)).find(Boolean)?.focus();
  };
  const node = h(`div.toast.${as}`, h("span.sign", { "aria-hidden": true }, SIGNS[as]), h("p", text),
    h("button.icon", { type: "button", "aria-label": "Close message", onclick: close }, "\u00d7"));
  const place = document.getElementById("toasts");
  place.append(node);
  while (place.children.length > 4) place.firstChild.remove();
  if (as !== "bad") setTimeout(close, 6000);
}

let dialogs = 0; // one may stand above another

/**
 * A modal dialog; resolves to what `close(value)` was given, or null (Escape, cancel). `body(close)` returns the children;
 * a form in it gets method=dialog behaviour by calling close itself. The focus goes back to where it was.
 */
export function dialog(title, body, { wide = false } = {}) {
  return new Promise((resolve) => {
    let result = null;
    const from = document.activeElement;
    const close = (value = null) => { result = value; node.close(); };
    const name = `dialog-title-${dialogs += 1}`;
    const node = h("dialog", { class: wide ? "wide" : null, "aria-labelledby": name,
      onclose: () => {
        node.remove();
        if (from !== document.body && !from?.isConnected) document.querySelector("main h1")?.focus({ preventScroll: true });
        resolve(result);
      },
      onclick: (event) => { if (event.target === node) close(); } },
    h("div.dialog", h("div.dialog-head", h("h2", { id: name }, title),
      h("button.icon", { type: "button", "aria-label": "Close", onclick: () => close() }, "\u00d7")), h("div.dialog-body")));
    paint(node.querySelector(".dialog-body"), body(close));
    document.body.append(node);
    node.showModal();
    node.querySelector("[autofocus], input, textarea, select, .primary")?.focus();
  });
}

/**
 * Ask before something is done: resolves to {text} or null. `field`: {label, value, required, max}; `danger` marks the button.
 * `act(text)` is run while the dialog stands, its problem is shown there.
 */
export function confirm(title, { text, action = "OK", field, danger = false, act } = {}) {
  return dialog(title, (close) => {
    const input = field && h("input", { id: "confirm-field", name: "text", value: field.value ?? "", required: field.required, maxlength: field.max ?? 500, autofocus: true });
    const place = h("div");
    const submit = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
    return h("form", { onsubmit: async (event) => {
      event.preventDefault();
      const value = { text: input?.value ?? "" };
      submit.disabled = true;
      try {
        value.answer = await act?.(value.text);
        close(value);
      } catch (error) {
        submit.disabled = false;
        submit.focus();
        paint(place, failure(error));
      }
    } }, text && h("p", text), field && h("div.field", h("label", { for: "confirm-field" }, field.label), input), place,
    h("div.actions", h("button", { type: "button", onclick: () => close() }, "Cancel"), submit));
  });
}

/** A button that copies a text; `shown`: what is seen of it. */
export function copyable(text, shown = text) {
  if (!text) return null;
  return h("span.copyable", h("code", { title: text }, shown), h("button.icon.copy", { type: "button", title: "Copy", "aria-label": `Copy ${shown}`,
    onclick: () => copy(text) }, h("span", { "aria-hidden": true })));
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no secure context: an old way, which needs none
    const area = h("textarea", { value: text, "aria-hidden": true, class: "sr" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

/** The first characters of a digest. */
export const digest = (text) => copyable(text, text ? `${text.slice(0, 12)}\u2026` : "");

/** A bar that is so full (0..1), with a text for those who do not see it. */
export function meter(share, label, as = "") {
  const part = Math.max(0, Math.min(1, share || 0));
  return h("span.meter", { class: as, role: "img", "aria-label": label, title: label }, h("span", { css: { width: `${(100 * part).toFixed(2)}%` } }));
}

/** A field of a form: label, control, help, what is wrong. `control` gets its id and descriptions. */
export function field(label, control, { help, problem, id, note, class: kind } = {}) {
  const name = id ?? control.props?.id;
  give(control, "id", name);
  const described = [help && `${name}-help`, problem && `${name}-problem`].filter(Boolean).join(" ");
  if (described) give(control, "aria-describedby", described);
  if (problem) give(control, "aria-invalid", true);
  return h("div.field", { class: [kind, problem && "invalid"].filter(Boolean).join(" ") || null, key: name },
    h("label", { for: name }, label, note && h("span.note", " ", note)), control,
    help && h("p.help", { id: `${name}-help` }, help), problem && h("p.wrong", { id: `${name}-problem` }, problem));
}

/** Tabs as links or buttons: tabs("Of the session", [["rounds", "Rounds"], ...], now, pick). Arrow keys move. */
export function tabs(label, items, now, pick) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = (items.findIndex(([key]) => key === now) + step + items.length) % items.length;
    pick(items[at][0]);
    event.currentTarget.querySelectorAll("[role=tab]")[at]?.focus();
  };
  return h("div.tabs", { role: "tablist", "aria-label": label, onkeydown: move }, items.map(([key, text]) =>
    h("button", { key, type: "button", role: "tab", id: `tab-${key}`, "aria-selected": key === now, "aria-controls": "tab-panel",
      tabindex: key === now ? 0 : -1, onclick: () => pick(key) }, text)));
}
