// A session is started, from nothing or as a clone of another: the form knows all settings from the gateway's schema, and
// the options of each strategy, codec and selection that is installed. Only what differs from the defaults is sent.

import { idempotency } from "../api.js";
import { h } from "../dom.js";
import { count, number } from "../format.js";
import { only } from "../me.js";
import { sessionLink } from "../parts.js";
import { go, href } from "../router.js";
import { allowed, APART, cloneCommand, command, control, group, lines, pairs, parse, same, shown } from "../settings.js";
import { badge, card, copy, failure, field, heading, toast } from "../ui.js";

const CLIENTS_READ = 2000;
const VALUES_MAX = 12;
const KINDS = { strategy_options: "strategy", codec_options: "codec", downlink_options: "codec", selection_options: "selection" };
const OF = { strategy_options: "strategy", codec_options: "codec", downlink_options: "downlink", selection_options: "selection" };

export default async function start(ctx) {
  const { api, query, signal, paint, root } = ctx;
  const cloned = query.get("clone");
  const given = await Promise.all([
    api.get("settings", { signal }), api.all("strategies", { signal }), api.all("clients", { query: { online: true }, most: CLIENTS_READ, signal }).catch(() => []),
    api.get("stages", { signal }).catch(() => ({ items: [] })), api.get("models", { query: { limit: 50 }, signal }).catch(() => ({ items: [] })),
    cloned ? api.get(["sessions", cloned], { signal }) : null,
  ]);
  const [schema, installed, clients, stages, models, origin] = given;
  const form = new Form({ schema, installed, origin, model: query.get("model") ?? origin?.base ?? "" });
  const state = { form, clients, stages: stages.items, models: models.items, busy: false, failed: null, key: idempotency(), uploading: "" };
  const draw = () => paint(...page(ctx, state, draw));
  state.draw = draw;
  draw();
  if (!form.model && !cloned) root.querySelector("#f-model")?.focus();
}

/** What has been typed, and what it means. */
class Form {
  constructor({ schema, installed, origin, model }) {
    Object.assign(this, { schema, installed, origin, model, session: "", texts: {}, options: {}, problems: {}, filter: {}, otherFilter: "", train: "" });
    this.defaults = Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, one.default ?? (one.type === "object" ? {} : null)]));
    this.before = { ...this.defaults, ...origin?.config };
    for (const [name, one] of Object.entries(schema.properties)) {
      if (!APART.includes(name) && !same(this.before[name], this.defaults[name])) this.texts[name] = shown(this.before[name], allowed(one, schema.$defs));
    }
    this.strategies = this.before.strategy.split("+");
    for (const name of ["codec", "downlink", "selection"]) this[name] = this.before[name];
    for (const [name, kind] of Object.entries(KINDS)) this.options[name] = this.spread(name, kind);
    this.filter = Object.fromEntries(Object.entries(this.before.client_filter ?? {}).map(([key, value]) => [key, [].concat(value)]));
    this.train = lines(this.before.train_config);
  }

  names(kind) {
    return this.installed.filter((one) => one.kind === kind).map((one) => one.name);
  }

  found(kind, name) {
    return this.installed.find((one) => one.kind === kind && one.name === name);
  }

  members(setting) {
    return setting === "strategy_options" ? this.strategies : [this[OF[setting]]];
  }

  /** Options as {member: {option: text}}; flat ones belong to the member that has such. */
  spread(setting, kind) {
    const texts = {};
    for (const [key, value] of Object.entries(this.before[setting] ?? {})) {
      const members = this.members(setting);
      if (members.includes(key) && value && typeof value === "object") for (const [name, one] of Object.entries(value)) this.put(texts, kind, key, name, one);
      else this.put(texts, kind, members.find((one) => this.found(kind, one)?.options.some((option) => option.name === key)) ?? members[0], key, value);
    }
    return texts;
  }

  put(texts, kind, member, name, value) {
    const option = this.found(kind, member)?.options.find((one) => one.name === name);
    (texts[member] ??= {})[name] = shown(value, option ? allowed(option.json_schema) : { type: typeof value === "object" ? "json" : "string" });
  }

  /** The settings that differ from `base`: {config, problems}. */
  read(base) {
    const config = {};
    const problems = {};
    const put = (name, value) => { if (!same(value, base[name])) config[name] = value; };
    for (const [name, one] of Object.entries(this.schema.properties)) {
      if (APART.includes(name)) continue;
      const { value, problem } = parse(this.texts[name], allowed(one, this.schema.$defs));
      if (problem) problems[name] = problem;
      else put(name, value === undefined ? this.defaults[name] : value);
    }
    put("strategy", this.strategies.join("+"));
    for (const name of ["codec", "downlink", "selection"]) put(name, this[name]);
    for (const [setting, kind] of Object.entries(KINDS)) put(setting, this.readOptions(setting, kind, problems));
    const filter = Object.fromEntries(Object.entries(this.filter).filter(([, values]) => values.length));
    const more = pairs(this.otherFilter);
    if (more.problem) problems.client_filter = more.problem;
    for (const [key, value] of Object.entries(more.value ?? {})) filter[key] = String(value).split(",").map((one) => one.trim());
    put("client_filter", Object.fromEntries(Object.entries(filter).map(([key, values]) => [key, values.length === 1 ? values[0] : values])));
    const train = pairs(this.train);
    if (train.problem) problems.train_config = train.problem;
    else put("train_config", train.value);
    return { config, problems };
  }

  readOptions(setting, kind, problems) {
    const members = this.members(setting);
    const found = {};
    for (const member of members) {
      for (const option of this.found(kind, member)?.options ?? []) {
        const { value, problem } = parse(this.options[setting][member]?.[option.name], allowed(option.json_schema));
        if (problem) problems[`${setting}.${member}.${option.name}`] = problem;
        if (value === undefined || problem) continue;
        if (members.length === 1) found[option.name] = value;
        else (found[member] ??= {})[option.name] = value;
      }
    }
    return found;
  }

  body() {
    const { config, problems } = this.read(this.origin ? this.before : this.defaults);
    const body = { ...(this.origin ? (this.model && this.model !== this.origin.base ? { model: this.model } : {}) : { model: this.model }), config };
    if (this.session) body.session = this.session;
    return { body, problems };
  }
}

/** The fields of a problem: those that it names, else the one that its status is about. */
function fields(error, form) {
  if (error.errors?.length) return error.errors;
  const problem = error.detail || error.title || "";
  if (error.status === 409 && form.session) return [{ where: "session", problem }];
  if (error.status === 404 && problem.startsWith("model ")) return [{ where: "model", problem }];
  return [];
}

/** The field that a problem of the gateway belongs to: `body.config.rounds` -> rounds. */
function place(where, form) {
  const parts = where.split(".").filter((one, index) => !(index === 0 && one === "body") && one !== "config");
  const [name, ...rest] = parts;
  if (!KINDS[name]) return name;
  const members = form.members(name);
  if (!rest.length) return name;
  if (members.includes(rest[0]) && rest[1]) return `${name}.${rest[0]}.${rest[1]}`;
  const member = members.find((one) => form.found(KINDS[name], one)?.options.some((option) => option.name === rest[0]));
  return member ? `${name}.${member}.${rest[0]}` : name;
}

function page(ctx, state, draw) {
  const { form } = state;
  const { body, problems: typed } = form.body();
  const problems = { ...form.problems, ...typed };
  const changed = Object.keys(body.config).length;
  const submit = async (event) => {
    event.preventDefault();
    if (state.busy) return;
    const wrong = Object.keys(form.body().problems);
    if (wrong.length) return reveal(ctx.root, wrong[0]);
    state.busy = true;
    state.failed = null;
    form.problems = {};
    draw();
    try {
      const path = form.origin ? ["sessions", form.origin.session, "clone"] : ["sessions"];
      const made = await ctx.api.post(path, body, { headers: state.key });
      toast(`${made.session} is started`);
      go(href(["sessions", made.session]));
    } catch (error) {
      state.busy = false;
      state.failed = error;
      state.key = idempotency();
      error.errors = fields(error, form);
      for (const one of error.errors) form.problems[place(one.where, form)] = one.problem + (one.got ? ` (got ${one.got})` : "");
      draw();
      reveal(ctx.root, Object.keys(form.problems)[0]);
    }
  };
  const edit = (change) => { // what is typed anew has no problem yet, and is another request
    change();
    state.key = idempotency();
    draw();
  };
  const known = { form, problems, edit, state, ctx };
  const back = h("a", { href: "#/sessions" }, "Sessions");
  return [
    heading(form.origin ? "Clone a session" : "Start a session", { back, note: form.origin ? ["from ", sessionLink(form.origin.session), changed ? `, with ${count(changed, "setting")} that ${changed === 1 ? "differs" : "differ"}` : ": change what is to differ"] : "What is left empty has its default." }),
    h("form.start", { onsubmit: submit, novalidate: true, key: "form", autocomplete: "off" },
      h("div.start-fields",
        modelPart(known), ...group(form.schema).slice(0, 1).map((one) => settingsPart(known, one, true)), strategyPart(known), filterPart(known), codecPart(known), trainPart(known),
        ...group(form.schema).slice(1).map((one) => settingsPart(known, one, false))),
      h("aside.start-aside", { "aria-label": "What will be sent" }, h("div.sticky",
        state.failed && left(state.failed, form),
        only("session.start", h("button.primary.big-button", { type: "submit", disabled: state.busy || (!form.model && !form.origin) }, state.busy ? "Starting\u2026" : form.origin ? "Start the clone" : "Start")),
        !form.model && !form.origin && h("p.help", "A model to begin with is missing."),
        preview("The request", `POST api/v1/sessions${form.origin ? `/${form.origin.session}/clone` : ""}\n${JSON.stringify(body, null, 2)}`),
        preview("On the command line", form.origin ? cloneCommand(form.origin.session, body) : command({ model: form.model, ...body }))))),
  ];
}

function left(error, form) {
  const told = error.errors?.length && error.errors.every((one) => known(place(one.where, form), form));
  if (!told) return failure(error);
  return h("div.problem", { role: "alert" }, h("p", h("strong", count(error.errors.length, "setting")), ` cannot be like that: see the marked ${error.errors.length === 1 ? "field" : "fields"}.`));
}

const known = (name, form) => name in form.schema.properties || ["model", "session"].includes(name) || Object.keys(KINDS).some((key) => name.startsWith(`${key}.`));

function reveal(root, name) {
  const node = name && root.querySelector(`[id="f-${CSS.escape(name)}"]`);
  if (!node) return;
  const details = node.closest("details");
  if (details) details.open = true;
  node.focus();
  node.scrollIntoView({ block: "center" });
}

const preview = (title, text) => h("div.preview", { key: title }, h("div.card-head", h("h2", title), h("button.plain", { type: "button", "aria-label": `Copy: ${title}`, onclick: () => copy(text) }, "Copy")),
  h("pre", { tabindex: 0, role: "region", "aria-label": title }, text));

function modelPart({ form, problems, edit, state, ctx }) {
  const pick = (version) => edit(() => { form.model = version; delete form.problems.model; });
  const search = (event) => {
    const text = event.target.value;
    pick(text.trim());
    clearTimeout(state.timer);
    state.timer = setTimeout(async () => {
      const found = await ctx.api.get("models", { query: { text, limit: 50 }, signal: ctx.signal }).catch(() => null);
      if (found) { state.models = found.items; state.draw(); }
    }, 250);
  };
  const was = form.origin && form.model !== form.origin.base ? form.origin.base || "the model it was started with" : undefined;
  return card("Model and name", {}, h("div.fields",
    field("model to begin with", h("input", { id: "f-model", list: "versions", value: form.model, oninput: search, placeholder: form.origin ? "the model it began with" : "a published version", spellcheck: "false", required: !form.origin }),
      { help: "A published version: type to search.", problem: problems.model, note: was && `was ${was}`, class: was ? "changed" : null }),
    field("name", h("input", { id: "f-session", value: form.session, placeholder: "made up", spellcheck: "false", oninput: (event) => edit(() => { form.session = event.target.value.trim(); delete form.problems.session; }) }),
      { help: "Letters, digits, - and _.", problem: problems.session }),
    upload({ pick, state, ctx })),
  h("datalist#versions", state.models.map((one) => h("option", { key: one.version, value: one.version }, `${one.session || "imported"}${one.stages.length ? `, ${one.stages.join(", ")}` : ""}`))),
  (state.stages.length > 0 || state.models.length > 0) && h("div.chips.from", { role: "group", "aria-label": "Models that suggest themselves" },
    state.stages.map((one) => suggestion(form, pick, one.version, `${one.stage}: `, `stage-${one.stage}`)),
    state.models.filter((one) => !state.stages.some((stage) => stage.version === one.version)).slice(0, 4).map((one) => suggestion(form, pick, one.version, "", one.version))));
}

const suggestion = (form, pick, version, before, key) => h("button", { key, type: "button", "aria-pressed": form.model === version, onclick: () => pick(version) }, h("span.clip", before && h("span.muted", before), h("bdi", version)));

function upload({ pick, state, ctx }) {
  const send = async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    const version = file.name.replace(/\.(safetensors|npz)$/i, "").replace(/[^A-Za-z0-9_-]+/g, "-").replace(/(-\d+)+$/, "").slice(0, 60) || "imported";
    const name = `${version}-${Date.now().toString(36)}x`;
    state.uploading = `sending ${file.name}\u2026`;
    state.draw();
    try {
      const made = await ctx.api.upload("models", file, { query: { version: name, note: `uploaded as ${file.name}` }, headers: idempotency(), signal: ctx.signal });
      state.models = [made, ...state.models];
      toast(`${made.version} is imported`);
      pick(made.version);
    } catch (error) {
      if (error.name !== "AbortError") toast(error);
    } finally {
      state.uploading = "";
      event.target.value = "";
      state.draw();
    }
  };
  return field("or upload a file", h("input", { id: "f-file", type: "file", accept: ".safetensors,.npz", onchange: send, disabled: Boolean(state.uploading) }), { help: state.uploading || "A .safetensors or .npz file becomes a version." });
}

function settingField({ form, problems, edit }, name) {
  const schema = form.schema.properties[name];
  const may = allowed(schema, form.schema.$defs);
  const { value, problem } = parse(form.texts[name], may);
  const now = value === undefined ? form.defaults[name] : value;
  const was = form.origin && !problem && !same(now, form.before[name]) ? shown(form.before[name], may) : undefined;
  return control({ id: `f-${name}`, name, schema, defs: form.schema.$defs, text: form.texts[name] ?? "", problem: problems[name], was, help: brief(schema.description),
    oninput: (text) => edit(() => { form.texts[name] = text; delete form.problems[name]; }) });
}

const brief = (text) => (text ?? "").replace(/`{1,2}/g, "").replace(/\s+/g, " ").trim();

function settingsPart(known, [title, names], open) {
  const { form, problems } = known;
  const fields = h("div.fields", names.map((name) => settingField(known, name)));
  if (open) return card(title, {}, fields);
  const set = names.filter((name) => form.texts[name] !== undefined && form.texts[name] !== "").length;
  return h("details.card", { key: title, open: names.some((name) => problems[name]) || (form.origin && set > 0) || undefined },
    h("summary", title, " ", set > 0 && h("span.muted", `${set} set`)), fields);
}

function optionFields(known, setting, member) {
  const { form, problems, edit } = known;
  const found = form.found(KINDS[setting], member);
  if (!found) return h("p.wrong", `${member} is not installed at the gateway.`);
  const before = form.origin && form.spread(setting, KINDS[setting])[member];
  return h("div.options", { key: `${setting}-${member}` }, found.about && h("p.help", found.about), found.needs.map((need) => h("p.help", "Needs: ", need)),
    paper(found.paper), found.options.length > 0 ? h("div.fields", found.options.map((option) => {
      const key = `${setting}.${member}.${option.name}`;
      const text = form.options[setting][member]?.[option.name] ?? "";
      return control({ id: `f-${key}`, name: option.name, schema: { ...option.json_schema, default: option.required ? undefined : option.default }, text, required: option.required,
        problem: problems[key], help: brief(option.description), was: before && (before[option.name] ?? "") !== text ? before[option.name] ?? "" : undefined,
        oninput: (typed) => edit(() => { (form.options[setting][member] ??= {})[option.name] = typed; delete form.problems[key]; delete form.problems[setting]; }) });
    })) : h("p.help", "It has no options."));
}

function paper(text) {
  const found = /https?:\/\/\S+/.exec(text ?? "");
  if (!text) return null;
  return h("p.help", found ? h("a", { href: found[0], rel: "noreferrer noopener", target: "_blank" }, text.replace(found[0], "").replace(/[,\s]+$/, "") || found[0]) : text);
}

function choose(known, name, kind, title, help) {
  const { form, problems, edit } = known;
  const was = form.origin && form[name] !== form.before[name] ? form.before[name] : undefined;
  return field(title, h("select", { id: `f-${name}`, value: form[name], onchange: (event) => edit(() => { form[name] = event.target.value; delete form.problems[name]; }) },
    [...new Set([...(kind === "codec" ? ["none"] : []), ...form.names(kind), form[name]])].map((one) => h("option", { value: one }, one))),
  { help, problem: problems[name] ?? problems[`${name}_options`], note: was && `was ${was}`, class: was ? "changed" : null });
}

function strategyPart(known) {
  const { form, problems, edit } = known;
  const was = form.origin && form.strategies.join("+") !== form.before.strategy ? form.before.strategy : undefined;
  const set = (list) => edit(() => { form.strategies = list; delete form.problems.strategy; delete form.problems.strategy_options; });
  const all = form.names("strategy");
  return card("Strategy", { aside: form.strategies.length > 1 ? ["a chain: ", h("code", form.strategies.join("+"))] : null },
    h("ol.chain", form.strategies.map((name, index) => h("li", { key: `${index}-${name}` },
      h("div.chain-head", field(index ? "then" : "strategy", h("select", { id: index ? `f-strategy-${index}` : "f-strategy", value: name, onchange: (event) => set(form.strategies.with(index, event.target.value)) },
        [...new Set([...all, name])].map((one) => h("option", { value: one, disabled: one !== name && form.strategies.includes(one) }, one))),
      index ? {} : { problem: problems.strategy ?? problems.strategy_options, note: was && `was ${was}`, class: was ? "changed" : null }),
      form.found("strategy", name)?.family && badge(form.found("strategy", name).family, "none"),
      form.strategies.length > 1 && h("button.icon", { type: "button", "aria-label": `Take ${name} out of the chain`, onclick: () => set(form.strategies.filter((_, at) => at !== index)) }, "\u00d7")),
      optionFields(known, "strategy_options", name)))),
    form.strategies.length < 8 && h("p", h("button", { type: "button", onclick: () => set([...form.strategies, all.find((one) => !form.strategies.includes(one))]) }, "+ Chain another")));
}

function codecPart(known) {
  const { form } = known;
  const part = (name, title, help) => h("div", { key: name }, choose(known, name, "codec", title, help), form[name] !== "none" && optionFields(known, `${name}_options`, form[name]));
  const open = form.codec !== "none" || form.downlink !== "none" || known.problems.codec || known.problems.downlink;
  return h("details.card", { key: "codecs", open: Boolean(open) || undefined }, h("summary", "Compression ", h("span.muted", `updates: ${form.codec}, new versions: ${form.downlink}`)),
    h("div.grid2", part("codec", "codec of updates", "How clients encode what they send. none: exact."), part("downlink", "codec of new versions", "For clients that hold the version before: their difference. none: the whole version.")));
}

function trainPart({ form, problems, edit }) {
  const was = form.origin && lines(form.before.train_config) !== form.train.trim() ? lines(form.before.train_config).replaceAll("\n", ", ") : undefined;
  return card("What clients are told", {}, field("train config", h("textarea", { id: "f-train_config", rows: 3, class: "mono", value: form.train, spellcheck: "false", placeholder: "lr=0.1\nepochs=2",
    oninput: (event) => edit(() => { form.train = event.target.value; delete form.problems.train_config; }) }),
  { help: "One KEY=VALUE a line, the client's code reads it as task.config. Values are JSON, else texts.", problem: problems.train_config, note: was !== undefined ? `was ${was || "empty"}` : null, class: was !== undefined ? "changed" : null }));
}

function filterPart(known) {
  const { form, state, problems, edit } = known;
  const seen = {};
  for (const client of state.clients) for (const [key, value] of Object.entries(client.attributes)) ((seen[key] ??= {})[value] ??= 0, seen[key][value] += 1);
  for (const [key, values] of Object.entries(form.filter)) for (const value of values) (seen[key] ??= {})[value] ??= 0;
  const fits = state.clients.filter((client) => Object.entries(form.filter).every(([key, values]) => !values.length || values.includes(client.attributes[key]))).length;
  const toggle = (key, value) => edit(() => {
    const now = form.filter[key] ?? [];
    form.filter[key] = now.includes(value) ? now.filter((one) => one !== value) : [...now, value];
    delete form.problems.client_filter;
  });
  const rows = Object.entries(seen).filter(([key, values]) => Object.keys(values).length <= VALUES_MAX || form.filter[key]?.length).sort();
  return card("Which clients", { aside: state.clients.length ? `${number(fits)} of ${count(state.clients.length, "client")} that ${state.clients.length === 1 ? "is" : "are"} there` : "no client is there now" },
    rows.map(([key, values]) => h("div.attribute", { key, role: "group", "aria-label": `Attribute ${key}` }, h("span.muted", h("bdi", key)),
      h("div.chips", Object.keys(values).sort().map((value) => h("button", { key: value, type: "button", "aria-pressed": form.filter[key]?.includes(value) ?? false, onclick: () => toggle(key, value) },
        h("bdi", value), h("span.muted", number(values[value]))))))),
    h("div.fields", choose(known, "selection", "selection", "selection", "How clients per round are chosen among those."),
      field("other attributes", h("input", { id: "f-client_filter", value: form.otherFilter, placeholder: "region=eu,us", spellcheck: "false",
        oninput: (event) => edit(() => { form.otherFilter = event.target.value; delete form.problems.client_filter; }) }), { help: "attribute=value, or several values with commas.", problem: problems.client_filter })),
    form.selection !== "random" && optionFields(known, "selection_options", form.selection));
}
