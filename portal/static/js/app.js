// Finds data-… attributes on the page and in whatever htmx swaps in, and loads only the modules that they need.
import { failure, text, toast } from "./dom.js";

const FEATURES = [
  ["[data-theme-choice]", () => import("./theme.js")],
  ["[data-menu]", () => import("./menu.js")],
  ["[data-time]", () => import("./localtime.js")],
  ["[data-copy]", () => import("./copy.js")],
  ["[data-dialog]", () => import("./dialog.js")],
  ["[data-confirm]", () => import("./confirm.js")],
  ["[data-dismissible], [data-focus], [data-shown-if]", () => import("./forms.js")],
  ["[data-insert-into]", () => import("./insert.js")],
  ["[data-passkeys]", () => import("./passkeys.js")],
  ["[data-upload]", () => import("./upload.js")],
  ["[data-chart]", () => import("./chart.js")],
  ["[data-chat]", () => import("./chat.js")],
  ["[data-log]", () => import("./log.js")],
];
const mounted = new WeakSet();

/** Give every marked element at or below root its behaviour, once. */
export async function mount(root) {
  for (const [selector, load] of FEATURES) {
    const found = [...(root.matches?.(selector) ? [root] : []), ...root.querySelectorAll(selector)];
    const fresh = found.filter((element) => !mounted.has(element));
    if (!fresh.length) continue;
    fresh.forEach((element) => mounted.add(element));
    load().then((feature) => fresh.forEach((element) => feature.mount(element)));
  }
}

mount(document);
// At once, too: until htmx:load, what is asked for every second would flicker.
document.addEventListener("htmx:afterSwap", (event) => mount(event.detail.target.isConnected ? event.detail.target : document));
document.addEventListener("htmx:load", (event) => mount(event.detail.elt));
document.addEventListener("portal:replaced", (event) => mount(event.target));

document.addEventListener("htmx:responseError", (event) => toast(failure(event.detail.xhr.status), "danger"));
document.addEventListener("htmx:sendError", () => toast(text("offline"), "warning"));
document.addEventListener("toast", (event) => toast(event.detail.message ?? event.detail.value, event.detail.tone));
// hx-confirm would ask with the browser's own box; our dialog looks and reads like the rest.
document.addEventListener("htmx:confirm", async (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  const { ask } = await import("./confirm.js");
  if (await ask({ question: event.detail.question, ...event.detail.elt.dataset })) event.detail.issueRequest(true);
});
