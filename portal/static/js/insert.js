// Buttons that write a placeholder into a text field, where the cursor is.

/** Show the buttons of one group, and let each write its column in braces. */
export function mount(group) {
  const field = document.getElementById(group.dataset.insertInto);
  // A cursor that nobody has set stands before the text, where nobody wants the column.
  field.setSelectionRange(field.value.length, field.value.length);
  group.hidden = false;
  group.addEventListener("click", (event) => {
    const button = event.target.closest("[data-insert]");
    if (!button) return;
    field.setRangeText(`{${button.dataset.insert}}`, field.selectionStart, field.selectionEnd, "end");
    field.focus();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
