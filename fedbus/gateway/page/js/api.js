// The gateway's REST. What it refuses becomes a `Problem`; what cannot be reached too, with status 0.

const RETRY_MS = 700;

/**
 * What holds for all requests: `headers` of those that change something. `denied()` hears that nobody is logged in (any
 * more); `renew()` that a change was refused: whether it is she as before, and no other in another tab; `again()` asks
 * anew who one is: whether somebody has said it.
 */
export const guard = { headers: {}, denied: () => {}, renew: async () => false, again: async () => false };
export const CSRF = "X-Fedbus-CSRF";
const ASKING = ["login", "login/again"]; // there a token is wrong, not who one is
const BASE = new URL("api/v1/", document.baseURI);

/** An answer that is no success (RFC 9457): `title`, `detail`, `status`, `errors: [{where, problem, got}]`, `state`. */
export class Problem extends Error {
  constructor(status, body = {}) {
    super(body.detail || body.title || `status ${status}`);
    Object.assign(this, { status, title: body.title || `Status ${status}`, detail: body.detail || "",
      errors: body.errors || [], state: body.state ?? null });
  }
}

/** The address of something, for links and downloads: url("models", name, "content"), url(["events"], {session}). */
export function url(path, query = {}) {
  const parts = Array.isArray(path) ? path : path.split("/").filter(Boolean);
  const found = new URL(parts.map(encodeURIComponent).join("/"), BASE);
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") found.searchParams.append(key, one);
    }
  }
  return found.href;
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

async function ask(method, path, options = {}, again = method === "GET", asked = false) {
  const { query, body, headers, signal, raw } = options, mark = guard.headers[CSRF];
  const repeat = () => ask(method, path, options, false, true);
  let answer;
  try {
    answer = await fetch(url(path, query), {
      method, signal, cache: "no-cache", credentials: "same-origin",
      headers: { Accept: "application/json, application/problem+json", ...(body !== undefined && !raw && { "Content-Type": "application/json" }),
        ...(method !== "GET" && guard.headers), ...headers },
      body: body === undefined ? undefined : raw ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (again) { // a network that changes, a gateway that restarts: reading is tried twice
      await pause(RETRY_MS);
      return ask(method, path, options, false);
    }
    throw new Problem(0, { title: "The gateway does not answer", detail: "It may be restarting; this page tries again." });
  }
  if (answer.status === 401 && !ASKING.includes(path)) {
    if (!asked && mark) { // perhaps another cookie came meanwhile
      await pause(RETRY_MS);
      return repeat();
    }
    guard.denied();
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ title: answer.statusText }));
    if (answer.status === 403 && !told.permission && !asked) {
      if (told.again ? await guard.again() : method !== "GET" && await guard.renew() && guard.headers[CSRF] !== mark) return repeat();
    }
    throw new Problem(answer.status, told);
  }
  if (answer.status === 204) return null;
  const type = answer.headers.get("Content-Type") || "";
  return type.includes("json") ? answer.json() : answer.text();
}

/**
 * Paths are lists (each part is encoded) or texts: api.get(["sessions", name]), api.get("overview").
 * Options: query, signal, headers. `all` follows cursors up to `most` items and returns them as one list.
 */
export const api = {
  url,
  get: (path, options) => ask("GET", path, options),
  post: (path, body, options) => ask("POST", path, { body, ...options }),
  put: (path, body, options) => ask("PUT", path, { body, ...options }),
  patch: (path, body, options) => ask("PATCH", path, { body, ...options }),
  delete: (path, options) => ask("DELETE", path, options),
  upload: (path, file, options) => ask("POST", path, { ...options, body: file, raw: true,
    headers: { "Content-Type": "application/octet-stream", ...options?.headers } }),
  async all(path, { query = {}, most = 5000, ...options } = {}) {
    const items = [];
    let cursor;
    do {
      const page = await ask("GET", path, { ...options, query: { limit: 500, ...query, cursor } });
      items.push(...page.items);
      cursor = page.next;
    } while (cursor && items.length < most);
    return items;
  },
};

/** A key under which a POST may be repeated without doing it twice. */
export const idempotency = () => ({ "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });
