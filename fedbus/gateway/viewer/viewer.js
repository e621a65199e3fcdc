// Shows /openapi.json: every operation with what it takes and gives. Nothing is fetched but the document itself.

const METHODS = ["get", "post", "put", "patch", "delete"];

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Text with `code` in it. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? node("code", {}, part) : part));
}

function resolve(doc, found) {
  while (found?.$ref) found = found.$ref.slice(2).split("/").reduce((at, key) => at[key], doc);
  return found ?? {};
}

const name = (ref) => ref.slice(ref.lastIndexOf("/") + 1);

/** A schema in a line: "integer, 1 to 500, default 100". */
function brief(schema) {
  if (schema.$ref) return name(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(brief).join(" or ");
  const parts = [];
  if (schema.enum) parts.push(schema.enum.map((one) => JSON.stringify(one)).join(" | "));
  else if (schema.const !== undefined) parts.push(JSON.stringify(schema.const));
  else if (schema.type === "array") parts.push(`list of ${brief(schema.items ?? {})}`);
  else if (schema.type === "object" && schema.additionalProperties) parts.push(`map of ${brief(schema.additionalProperties)}`);
  else parts.push([schema.type ?? "any"].flat().join(" or "));
  for (const [key, word] of [["minimum", ">="], ["exclusiveMinimum", ">"], ["maximum", "<="], ["exclusiveMaximum", "<"], ["minItems", "at least"], ["maxItems", "at most"], ["maxLength", "length <="]]) {
    if (schema[key] !== undefined) parts.push(`${word} ${schema[key]}`);
  }
  if (schema.pattern) parts.push(schema.pattern);
  if (schema.default !== undefined && schema.default !== null && JSON.stringify(schema.default).length < 40) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

function rows(head, body) {
  return node("table", {}, node("thead", {}, node("tr", {}, head.map((one) => node("th", { scope: "col" }, one)))), node("tbody", {}, body));
}

/** The fields of a model, and below it those of the models that it is made of, each once. */
function model(doc, schema, seen = new Set()) {
  const inner = schema.$ref ?? schema.items?.$ref;
  if (!inner || seen.has(inner)) return null;
  seen.add(inner);
  const found = resolve(doc, { $ref: inner });
  const fields = Object.entries(found.properties ?? {});
  const below = fields.flatMap(([, field]) => [field, field.items, field.additionalProperties, ...(field.anyOf ?? [])].filter((one) => one?.$ref));
  return node("details", {}, node("summary", {}, node("code", {}, name(inner))),
    found.description ? node("p", {}, prose(found.description)) : null,
    fields.length ? rows(["field", "type", "about"], fields.map(([key, field]) => node("tr", {},
      node("td", {}, node("code", {}, key), found.required?.includes(key) ? " *" : null),
      node("td", {}, node("code", {}, brief(field))),
      node("td", {}, prose(field.description ?? ""))))) : null,
    below.map((one) => model(doc, one, seen)));
}

function contents(doc, content) {
  return Object.entries(content ?? {}).flatMap(([media, { schema = {} }]) => [
    node("p", {}, node("code", {}, media), " ", schema.$ref ? "" : brief(schema)), model(doc, schema)]);
}

function operation(doc, path, method, found) {
  const parameters = (found.parameters ?? []).map((one) => resolve(doc, one));
  const answers = Object.entries(found.responses).map(([status, answer]) => [status, resolve(doc, answer)]);
  const good = answers.filter(([status]) => status < 400);
  const bad = answers.filter(([status]) => status >= 400);
  return node("article", { id: found.operationId },
    node("h3", {}, node("a", { href: `#${found.operationId}` }, node("code", {}, node("span", { class: "method" }, method.toUpperCase()), ` ${path}`)), ` ${found.summary}`),
    node("p", {}, prose(found.description ?? "")),
    found["x-fedbus-command"] ? node("p", { class: "mild" }, "Also: ", node("code", {}, found["x-fedbus-command"]), ", ", node("code", {}, found["x-fedbus-python"] ?? "")) : null,
    parameters.length ? rows(["parameter", "in", "type", "about"], parameters.map((one) => node("tr", {},
      node("td", {}, node("code", {}, one.name), one.required ? " *" : null), node("td", {}, one.in),
      node("td", {}, node("code", {}, brief(one.schema))), node("td", {}, prose(one.description ?? ""))))) : null,
    found.requestBody ? [node("h4", {}, found.requestBody.required ? "Body" : "Body, may be left out"), contents(doc, found.requestBody.content)] : null,
    good.map(([status, answer]) => [node("h4", {}, `${status} ${answer.description}`), contents(doc, answer.content)]),
    node("details", {}, node("summary", {}, `Problems: ${bad.map(([status]) => status).join(", ")}`),
      rows(["status", "means"], bad.map(([status, answer]) => node("tr", {}, node("td", {}, status), node("td", {}, prose(answer.description)))))));
}

function show(doc) {
  const all = Object.entries(doc.paths).flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => [path, method, item[method]]));
  const contentsOf = [];
  const shown = [node("p", {}, prose(doc.info.description ?? ""))];
  for (const tag of doc.tags) {
    const own = all.filter(([, , found]) => found.tags.includes(tag.name));
    if (!own.length) continue;
    contentsOf.push(node("h2", {}, tag.name), node("ul", {}, own.map(([path, method, found]) => node("li", { "data-of": found.operationId },
      node("a", { href: `#${found.operationId}` }, node("code", {}, `${method.toUpperCase()} ${path}`))))));
    shown.push(node("h2", {}, tag.name), node("p", { class: "mild" }, tag.description), own.map((one) => operation(doc, ...one)));
  }
  document.getElementById("contents").replaceChildren(...contentsOf);
  document.getElementById("operations").replaceChildren(...shown.flat(Infinity));
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/);
  for (const article of document.querySelectorAll("article")) {
    const hidden = !words.every((word) => article.textContent.toLowerCase().includes(word));
    article.hidden = hidden;
    const line = document.querySelector(`[data-of="${article.id}"]`);
    if (line) line.hidden = hidden;
  }
}

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  show(await answer.json());
  document.getElementById("find").addEventListener("input", (event) => find(event.target.value));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  document.getElementById("operations").replaceChildren(node("p", { role: "alert" }, `The document cannot be read: ${error.message}`));
}
