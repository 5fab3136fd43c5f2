// Small comforts of forms: dismissible messages, focus on the summary of errors, fields that depend on another.

function dependOn(element) {
  const form = element.closest("form");
  const values = element.dataset.shownValues.split("|");
  const show = () => {
    const chosen = new FormData(form).getAll(element.dataset.shownIf).map(String);
    element.hidden = !values.some((value) => chosen.includes(value));
  };
  form.addEventListener("change", show);
  show();
}

/** Give one element the comfort that its attribute names. */
export function mount(element) {
  if ("shownIf" in element.dataset) return dependOn(element);
  if ("focus" in element.dataset) return element.focus();
  const button = element.querySelector("[data-dismiss]");
  button.hidden = false;
  button.addEventListener("click", () => element.remove());
}
