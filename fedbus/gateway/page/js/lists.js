// What long lists share: pages behind a cursor, and filters that live in the address (so that "back" and a link work).

import { api } from "./api.js";
import { h } from "./dom.js";
import { number } from "./format.js";
import { failure } from "./ui.js";

/**
 * Items of as many pages as `count` needs: {items, total, more, problem}. Pages of a search may be empty and have a next one:
 * they are followed for a while. `problem`: what is wrong with a filter as it was typed.
 */
export async function upto(path, query, count, signal) {
  const items = [];
  let cursor, total = null;
  for (let pages = 10 + count / 20; pages > 0; pages -= 1) {
    let page;
    try {
      page = await api.get(path, { query: { ...query, limit: Math.min(500, count - items.length), cursor }, signal });
    } catch (problem) {
      if (problem.status !== 422) throw problem;
      return { items, total, more: false, problem };
    }
    items.push(...page.items);
    cursor = page.next;
    total = page.total ?? total;
    if (!cursor || items.length >= count) break;
  }
  return { items, total, more: Boolean(cursor) };
}

/** A button: press("Pause", pause, {class: "danger"}). */
export const press = (text, onclick, props) => h("button", { type: "button", onclick, ...props }, text);

/** Under a list: how much of it is shown, and a button for more. */
export const below = ({ items, total, more, problem }, next) => [problem && failure(problem), (items.length > 0 || more) && h("div.below", h("span.note",
  total === null || total <= items.length ? `${number(items.length)} shown` : `${number(items.length)} of ${number(total)} shown`), more && press(items.length ? "Show more" : "Look further", next))];

export const filters = (...fields) => h("form.filters", { role: "search", onsubmit: (event) => event.preventDefault() }, fields);

const by = (name, label, control) => h("div.by", { key: name }, h("label", { for: `by-${name}` }, label), control);
let timer = 0;

/** A text that is looked for; asked as one stops to type. */
export const find = (view, name, label, hint, type = "search") => by(name, label, h("input", { id: `by-${name}`, type, placeholder: hint, autocomplete: "off", spellcheck: "false",
  value: document.activeElement?.id === `by-${name}` ? document.activeElement.value : view.query.get(name) ?? "",
  oninput: ({ target }) => {
    clearTimeout(timer);
    timer = setTimeout(() => { if (!view.signal.aborted) view.ask({ [name]: target.value.trim() }); }, 250);
  } }));

/** One of a few: options [[value, text], ...]. */
export function pick(view, name, label, options) {
  const now = view.query.get(name) ?? "";
  const all = options.some(([value]) => value === now) ? options : [...options, [now, now]];
  return by(name, label, h("select", { id: `by-${name}`, onchange: ({ target }) => view.ask({ [name]: target.value }) },
    all.map(([value, text]) => h("option", { value, selected: value === now }, text))));
}

/** A moment, in the address as seconds since the epoch. */
export function when(view, name, label) {
  const at = Number(view.query.get(name));
  const local = at > 0 && at < 8e12 ? new Date(at * 1000 - new Date(at * 1000).getTimezoneOffset() * 60000).toISOString().slice(0, 16) : "";
  return by(name, label, h("input", { id: `by-${name}`, type: "datetime-local", value: local, onchange: ({ target }) => view.ask({ [name]: target.value && new Date(target.value) / 1000 }) }));
}
