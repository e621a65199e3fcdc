// Dark and light: the system's, until one is chosen; the choice is remembered.

const KEY = "fedbus.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

export const theme = {
  /** "dark" or "light": what is seen now. */
  get now() {
    return document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
  },
  toggle() {
    const next = theme.now === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem(KEY, next); } catch { /* not remembered then */ }
    tell();
  },
  /** Call when it changes: what draws on a canvas has to draw anew. */
  onChange(call, signal) {
    listeners.add(call);
    signal?.addEventListener("abort", () => listeners.delete(call), { once: true });
  },
  /** The colour of a custom property as a canvas takes it: theme.color("--accent"). */
  color(name) {
    const probe = document.createElement("i");
    probe.style.setProperty("color", `var(${name})`);
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  },
};

function tell() {
  for (const call of [...listeners]) call(theme.now);
}
system.addEventListener("change", () => { if (!document.documentElement.dataset.theme) tell(); });
