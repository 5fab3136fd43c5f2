// Passkeys: shows the buttons that need scripts, and says in plain words when the browser's dialog was left.
import { toast } from "./dom.js";

/** Make the page's passkey buttons usable. */
export function mount(element) {
  for (const button of document.querySelectorAll("[data-passkey-button]")) button.hidden = false;
  document.addEventListener("allauth.error", (event) => {
    event.preventDefault();
    toast(element.dataset.failure, "warning");
  });
}
