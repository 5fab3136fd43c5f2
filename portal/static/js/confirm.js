// data-confirm="question" on a form asks before it is sent; on a link it asks, then POSTs to the link's address.
import { csrfToken, make, text } from "./dom.js";

/** Ask in the shared dialog and resolve to whether the answer was yes. */
export function ask({ question, confirmTitle, confirmLabel, confirmDanger }) {
  const dialog = document.getElementById("confirm-dialog");
  if (!dialog) return Promise.resolve(window.confirm(question));
  const yes = dialog.querySelector("[data-confirm-yes]");
  dialog.querySelector("[data-confirm-title]").textContent = confirmTitle || text("confirm");
  dialog.querySelector("[data-confirm-text]").textContent = question;
  yes.textContent = confirmLabel || text("continue");
  yes.className = `btn ${confirmDanger === undefined ? "btn-primary" : "btn-danger"}`;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function post(address) {
  const form = make("form", { method: "post", action: address, hidden: true });
  form.append(make("input", { type: "hidden", name: "csrfmiddlewaretoken", value: csrfToken() }));
  document.body.append(form);
  form.submit();
}

/** Put the question before a form or link. */
export function mount(element) {
  const question = () => ask({ ...element.dataset, question: element.dataset.confirm });
  if (element.tagName !== "FORM") {
    element.addEventListener("click", async (event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      if (await question()) post(element.href);
    });
    return;
  }
  let agreed = false;
  element.addEventListener("submit", async (event) => {
    if (agreed) return;
    event.preventDefault();
    const submitter = event.submitter;
    if (!(await question())) return;
    agreed = true;
    element.requestSubmit(submitter);
    agreed = false;
  });
}
