import { empty } from "../ui.js";
import { h } from "../dom.js";

export default async function view({ paint }) {
  paint(h("h1", { tabindex: -1 }, "fedbus"), empty("nothing here yet"));
}
