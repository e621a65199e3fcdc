// What can be done with versions and stages: dialogs. Each resolves to what was done, or to null.

import { api, guard, idempotency, Problem } from "./api.js";
import { h, paint } from "./dom.js";
import { bytes, count, moment } from "./format.js";
import { press } from "./lists.js";
import { modelLink } from "./parts.js";
import { badge, confirm, dialog, failure, field, meter, toast } from "./ui.js";

export const stages = (list) => list.map((stage) => badge(stage, "ok"));
export const kept = (model) => model.kept !== "kept" && badge(model.kept);
export const told = (stage) => `${moment(stage.at)} by ${stage.by}${stage.reason && `: ${stage.reason}`}`;

// A form in a dialog; `act` gets its values and a place for what happens meanwhile. Problems are shown in it.
export const form = (title, action, fields, act) => dialog(title, (close) => {
  const place = h("div");
  const submit = h("button.primary", { type: "submit" }, action);
  return h("form", { onsubmit: async (event) => {
    event.preventDefault();
    submit.disabled = true;
    paint(place);
    try {
      close(await act(Object.fromEntries(new FormData(event.target)), place));
    } catch (error) {
      paint(place, failure(error));
      submit.disabled = false;
      submit.focus();
    }
  } }, fields, place, h("div.actions", press("Cancel", () => close()), submit));
});

export const entry = (name, label, props, help) => field(label, h("input", { name, id: `f-${name}`, autocomplete: "off", ...props }), { help });

/** Name a version in a stage. */
export async function promote(version) {
  const known = await api.all("stages");
  const note = h("p.help", { "aria-live": "polite" });
  const oninput = ({ target }) => {
    const held = known.find((stage) => stage.stage === target.value.trim());
    note.textContent = held ? `It takes the place of ${held.version}; a roll back brings that again.` : target.value.trim() && "A new stage.";
  };
  return form(`Promote ${version}`, "Promote", [entry("stage", "Stage", { list: "known", required: true, autofocus: true, placeholder: "production", oninput }),
    h("datalist", { id: "known" }, [...new Set(["production", ...known.map((stage) => stage.stage)])].map((name) => h("option", { value: name }))), note,
    entry("reason", "Reason", {}, "For those who ask later.")],
  async ({ stage, reason }) => {
    const done = await api.put(["stages", stage.trim()], { version, reason });
    toast(`${done.stage} is ${version} now`);
    return done;
  });
}

/** Give a stage the version before. */
export const rollBack = ({ stage, version, before: [before] }) => confirm(`Roll back ${stage}`, { text: `${version} goes, ${before} comes back.`, action: "Roll back", field: { label: "Reason" },
  act: async (reason) => {
    await api.post(["stages", stage, "rollback"], { reason });
    toast(`${stage} is ${before} again`);
  } });

/** Take a stage away; its version stays. */
export const clear = ({ stage, version }) => confirm(`Remove the stage ${stage}`, { text: `${version} stays, as long as something else keeps it.`, action: "Remove the stage", danger: true,
  act: () => api.delete(["stages", stage]) });

/** Write beside a version. */
export const annotate = ({ version, note: value }) => form(`Note on ${version}`, "Save", field("Note", h("textarea", { name: "note", id: "f-note", autofocus: true, value })),
  ({ note }) => api.patch(["models", version], { note }));

/** Remove a version's arrays; what refers to it, the dialog says. */
export const remove = ({ version, nbytes }) => confirm(`Remove ${version}`, { text: `Its arrays (${bytes(nbytes)}) are removed after a grace; what it was stays in the journal. What a stage or a session needs cannot be removed.`,
  action: "Remove", danger: true, field: { label: "Reason" }, act: (reason) => api.delete(["models", version], { query: { reason } }) });

// XMLHttpRequest, because fetch tells nothing of what it has sent.
const upload = (file, query, progress) => new Promise((done, failed) => {
  const request = new XMLHttpRequest();
  request.open("POST", api.url("models", query));
  request.responseType = "json";
  for (const [name, value] of Object.entries({ "Content-Type": "application/octet-stream", ...idempotency(), ...guard.headers })) request.setRequestHeader(name, value);
  request.upload.onprogress = (event) => progress(event.loaded / (event.total || 1));
  request.onload = () => request.status < 300 ? done(request.response) : failed(new Problem(request.status, request.response ?? {}));
  request.onerror = () => failed(new Problem(0, { title: "The upload broke off", detail: "The gateway does not answer, or closed the connection." }));
  request.send(file);
});

/** Import arrays from a file. */
export const importModel = () => form("Import a model", "Import", [
  entry("file", "File", { type: "file", accept: ".safetensors,.npz", required: true }, "safetensors, or npz of numpy; nothing in it is run."),
  entry("version", "Version", { required: true, placeholder: "digits-init" }, "Its name; those that end in - and a number are of sessions."), entry("note", "Note")],
({ file, version, note }, place) => upload(file, { version: version.trim(), note }, (share) => paint(place, meter(share, "sent"),
  h("p.note", { role: "status" }, share < 1 ? `${Math.round(100 * share)} % of ${bytes(file.size)}` : "Sent; it is checked and stored."))));

/** Which versions are kept. */
export async function retention() {
  const { keep_last } = await api.get("retention");
  return form("Retention", "Save", [h("p", "Of each session the newest versions are kept, and whatever a stage, a session or another version needs."),
    entry("keep", "Versions kept of each session", { type: "number", min: 1, value: keep_last ?? "", placeholder: "all" }, "Empty: all.")],
  ({ keep }) => api.put("retention", { keep_last: keep ? Number(keep) : null }));
}

/** Collect what nobody needs: what would go is shown first. */
export async function collect() {
  const run = (dry_run) => api.post("models/collect", undefined, { query: { dry_run } });
  const plan = await run(true);
  const many = count(plan.removed.length, "version");
  const why = Object.entries(plan.kept);
  return form("Collect", plan.removed.length ? `Remove ${many}` : "OK", [
    h("p", plan.removed.length ? `${many} would go, and give back ${bytes(plan.nbytes)}:` : "Nothing is to be removed: every version is kept for a reason."),
    h("ul.plain", plan.removed.slice(0, 500).map((name) => h("li", modelLink(name)))),
    why.length > 0 && h("details", h("summary", `${count(why.length, "version")} kept, and why`), h("dl.why", why.slice(0, 500).map(([name, reason]) => h("div", h("dt", h("bdi", name)), h("dd", reason)))))],
  async () => {
    if (!plan.removed.length) return null;
    const done = await run(false);
    const later = done.retired.length > 0 && `${count(done.retired.length, "version")} will be removed when their grace is over`;
    toast([done.removed.length > 0 && `${count(done.removed.length, "version")} removed, ${bytes(done.nbytes)}`, later].filter(Boolean).join("; ") || "Nothing was removed");
    return done;
  });
}
