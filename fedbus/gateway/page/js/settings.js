// A session's settings as fields of a form: what a JSON schema says becomes a control, what is typed becomes a value.

import { h } from "./dom.js";
import { field } from "./ui.js";

/** Which settings stand together, in which order; what a newer gateway adds comes into the last group by itself. */
export const GROUPS = [
  ["Rounds and clients", ["rounds", "clients_min", "clients_per_round", "oversample", "quorum", "purpose", "description"]],
  ["Deadlines", ["round_deadline_s", "gather_deadline_s", "close_deadline_s", "round_attempts_max"]],
  ["Evaluation and end", ["evaluate_every", "evaluate_deadline_s", "target_metric", "best_metric", "patience", "answers_min", "reveal"]],
  ["More", ["late_updates", "stale_weight", "staleness_max", "lossless", "sharding", "residency", "versions_kept", "seed",
    "weight_max", "value_floor", "headroom", "queries"]],
];
/** Those that have parts of the form to themselves. */
export const APART = ["strategy", "strategy_options", "codec", "codec_options", "downlink", "downlink_options", "selection",
  "selection_options", "client_filter", "train_config"];

export const group = (schema) => GROUPS.map(([title, names], index) => [title, index < GROUPS.length - 1 ? names.filter((name) => schema.properties[name])
  : [...names.filter((name) => schema.properties[name]), ...Object.keys(schema.properties).filter((name) => !APART.includes(name) && !GROUPS.some(([, known]) => known.includes(name)))]]);

/** {type, choices, low, high, nullable, bounds}: what a schema allows. */
export function allowed(schema, defs = schema.$defs ?? {}) {
  if (schema.$ref) return allowed({ ...defs[schema.$ref.split("/").pop()], default: schema.default }, defs);
  const parts = schema.anyOf ?? schema.oneOf;
  if (parts) {
    const real = parts.filter((one) => one.type !== "null");
    const inner = real.length === 1 ? allowed(real[0], defs) : { type: "json", bounds: "" };
    return { ...inner, nullable: real.length < parts.length };
  }
  const choices = schema.enum ?? (schema.const !== undefined ? [schema.const] : null);
  const type = choices ? "choice" : ["integer", "number", "boolean", "string"].includes(schema.type) ? schema.type : "json";
  return { type, choices, nullable: false, bounds: bounds(schema), schema };
}

const plain = (value) => Math.abs(value) >= 1e7 || (value !== 0 && Math.abs(value) < 1e-4) ? value.toExponential(0).replace("e+", "e") : value.toLocaleString("en", { maximumFractionDigits: 6 });

function bounds(schema) {
  const low = schema.minimum !== undefined ? `\u2265 ${plain(schema.minimum)}` : schema.exclusiveMinimum !== undefined ? `> ${plain(schema.exclusiveMinimum)}` : "";
  const high = schema.maximum !== undefined ? `\u2264 ${plain(schema.maximum)}` : schema.exclusiveMaximum !== undefined ? `< ${plain(schema.exclusiveMaximum)}` : "";
  if (schema.minimum !== undefined && schema.maximum !== undefined) return `${plain(schema.minimum)} to ${plain(schema.maximum)}`;
  return [low, high].filter(Boolean).join(", ");
}

/** What was typed, as a value: {value} or {problem}. An empty text is undefined: the default. */
export function parse(text, { type, choices }) {
  if (text === "" || text === undefined || text === null) return { value: undefined };
  if (type === "boolean") return { value: text === true || text === "true" };
  if (type === "choice") return { value: choices.find((one) => String(one) === String(text)) };
  if (type === "string") return { value: text };
  if (type === "json") {
    try { return { value: JSON.parse(text) }; } catch { return { problem: "expected JSON" }; }
  }
  const value = Number(text);
  if (!Number.isFinite(value)) return { problem: `expected ${type === "integer" ? "a whole number" : "a number"}` };
  if (type === "integer" && !Number.isInteger(value)) return { problem: "expected a whole number" };
  if (type === "integer" && !Number.isSafeInteger(value)) return { problem: "expected a whole number of at most 2^53 here" };
  return { value };
}

/** A value as it stands in a field. */
export function shown(value, { type }) {
  if (value === null || value === undefined) return "";
  return type === "json" ? JSON.stringify(value) : String(value);
}

/** What stands in a field is like this; `was`: the value of the session that is cloned, where the field has another now. */
export function control({ id, name, schema, defs, text, problem, was, help, required, oninput }) {
  const may = allowed(schema, defs);
  const fallback = schema.default;
  const props = { id, name: id, oninput: (event) => oninput(event.target.type === "checkbox" ? String(event.target.checked) : event.target.value) };
  const none = required ? "required" : fallback === undefined || fallback === null ? "" : shown(fallback, may);
  const notes = [help, may.bounds && `${may.bounds}.`, may.nullable && !none && !/none/i.test(help) && "Empty: none."].filter(Boolean).join(" ");
  const note = was !== undefined ? `was ${was === "" ? "empty" : was}` : null;
  const common = { help: notes || null, problem, id, note, class: was !== undefined ? "changed" : null };
  if (may.type === "boolean") {
    const now = text === "" || text === undefined ? fallback === true : text === "true" || text === true;
    return h("div.field", { key: id, class: [common.class, problem && "invalid"].filter(Boolean).join(" ") || null },
      h("label.check", { for: id }, h("input", { ...props, type: "checkbox", checked: now, oninput: null, onchange: props.oninput, "aria-describedby": `${id}-help` }), label(name), note && h("span.note", ` ${note}`)),
      h("p.help", { id: `${id}-help` }, notes), problem && h("p.wrong", problem));
  }
  if (may.type === "choice") {
    return field(label(name), h("select", { ...props, value: text || String(fallback ?? ""), onchange: props.oninput, oninput: null },
      may.choices.map((one) => h("option", { value: String(one) }, String(one)))), common);
  }
  const numeric = may.type === "integer" || may.type === "number";
  return field(label(name), may.type === "json" ? h("textarea", { ...props, rows: 2, value: text ?? "", placeholder: none, spellcheck: "false", class: "mono" })
    : h("input", { ...props, value: text ?? "", placeholder: none, inputmode: may.type === "integer" ? "numeric" : numeric ? "decimal" : null, autocomplete: "off", spellcheck: "false" }), common);
}

/** clients_min -> clients min; round_deadline_s -> round deadline, s. */
export function label(name) {
  return name.replace(/_s$/, ", s").replaceAll("_", " ");
}

export const same = (one, other) => JSON.stringify(ordered(one)) === JSON.stringify(ordered(other));

function ordered(value) {
  if (Array.isArray(value)) return value.map(ordered);
  if (value && typeof value === "object") return Object.fromEntries(Object.keys(value).sort().map((key) => [key, ordered(value[key])]));
  return value ?? null;
}

/** KEY=VALUE lines as the command line takes them: values are JSON, what is not JSON is a text. */
export function pairs(text) {
  const found = {};
  for (const line of text.split("\n").map((one) => one.trim()).filter(Boolean)) {
    const at = line.indexOf("=");
    if (at < 1) return { problem: `expected KEY=VALUE, got ${line}` };
    const raw = line.slice(at + 1).trim();
    try { found[line.slice(0, at).trim()] = JSON.parse(raw); } catch { found[line.slice(0, at).trim()] = raw; }
  }
  return { value: found };
}

export const lines = (values) => Object.entries(values ?? {}).map(([key, value]) => `${key}=${word(value)}`).join("\n");

/** A value as KEY=VALUE has it: a text bare, unless it would be read as JSON. */
function word(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  try { JSON.parse(value); } catch { return value; }
  return JSON.stringify(value);
}

const quote = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** The command that clones a session with what is to differ. */
export function cloneCommand(origin, { model, session, config }) {
  return [`fedbus session clone ${quote(origin)}`, model && `--model ${quote(model)}`, session && `--name ${quote(session)}`,
    ...Object.entries(config).map(([key, value]) => `--set ${quote(`${key}=${word(value)}`)}`)].filter(Boolean).join(" \\\n  ");
}

/** The command that starts one; mappings are options with KEY=VALUE, again for each key. */
export function command({ model, session, config }) {
  const said = [`fedbus session start ${quote(model || "VERSION")}`];
  const singular = { strategy_options: "strategy-option", codec_options: "codec-option", downlink_options: "downlink-option",
    selection_options: "selection-option", train_config: "train-config", client_filter: "client-filter" };
  if (session) said.push(`--name ${quote(session)}`);
  for (const [key, value] of Object.entries(config)) {
    const option = singular[key] ?? key.replaceAll("_", "-");
    if (value === null || key === "queries") continue; // has no option: the default, or another command
    if (singular[key]) {
      for (const [name, one] of Object.entries(value)) said.push(`--${option} ${quote(`${name}=${key === "client_filter" ? [].concat(one).join(",") : word(one)}`)}`);
    } else if (typeof value === "boolean") said.push(`--${value ? "" : "no-"}${option}`);
    else said.push(`--${option} ${quote(String(value))}`);
  }
  return said.join(" \\\n  ");
}
