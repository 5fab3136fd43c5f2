// data-dialog="name" opens <dialog id="name">. Escape is native; the cross and the backdrop close it too.
const wired = new WeakSet();

function wire(dialog) {
  if (wired.has(dialog)) return;
  wired.add(dialog);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
}

/** Make one link or button open its dialog; a link stays a link if the dialog is not on the page. */
export function mount(opener) {
  opener.addEventListener("click", (event) => {
    const dialog = document.getElementById(opener.dataset.dialog);
    if (!dialog || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    wire(dialog);
    dialog.showModal();
  });
}
