// Small things that every other script needs: words, the CSRF token, toasts, new elements.

/** Return a translated text of components/_script_texts.html by its name, e.g. text("copyFailed"). */
export function text(name) {
  return document.getElementById("texts")?.dataset[name] ?? name;
}

/** Return the CSRF token that the page was rendered with, or "" on pages without one. */
export function csrfToken() {
  const field = document.querySelector("input[name=csrfmiddlewaretoken]");
  if (field) return field.value;
  const headers = document.body.getAttribute("hx-headers");
  return headers ? JSON.parse(headers)["X-CSRFToken"] : "";
}

/** Return a new element with properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const TOAST_MS = 7000;

/** Show a message in the corner. Tones: info, success, warning, danger; danger stays until dismissed. */
export function toast(message, tone = "info") {
  const region = document.getElementById("toasts");
  const shown = region && [...region.children].some((one) => one.dataset.message === message);
  if (!region || shown) return;
  const close = make("button", { type: "button", className: "btn btn-ghost btn-icon notice-close", textContent: "×" });
  close.setAttribute("aria-label", text("dismiss"));
  const box = make("div", { className: `notice notice-${tone}` }, make("div", {}, make("p", { textContent: message })), close);
  box.dataset.message = message;
  close.addEventListener("click", () => box.remove());
  region.append(box);
  if (tone !== "danger") setTimeout(() => box.matches(":hover, :focus-within") || box.remove(), TOAST_MS);
}

/** Return the sentence for a failed response of this HTTP status (0: no answer at all). */
export function failure(status) {
  if (!status) return text("offline");
  if (status === 401) return text("signedOut");
  if (status === 403) return text("refused");
  if (status === 413) return text("tooLarge");
  return status === 429 ? text("tooMany") : text("failed");
}
