// data-copy="text" copies that text; an empty data-copy copies the code block that it stands in.
import { make, text, toast } from "./dom.js";

const SHOWN_MS = 1800;

async function copy(words) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(words);
  // Portals on plain http inside a company have no clipboard API; a selection still works.
  const area = make("textarea", { value: words, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("refused");
}

/** Show the button, which needs JavaScript, and make it copy. */
export function mount(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const words = button.dataset.copy || button.closest(".code-block").querySelector("code").textContent;
    const label = button.querySelector("[data-copy-text]");
    const before = label?.textContent;
    try {
      await copy(words);
    } catch {
      toast(text("copyFailed"), "warning");
      return;
    }
    if (!label) return toast(text("copied"), "success");
    label.textContent = text("copied");
    setTimeout(() => (label.textContent = before), SHOWN_MS);
  });
}
