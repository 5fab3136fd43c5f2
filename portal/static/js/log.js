// A log that follows its end unless the reader scrolled up, with a filter over the lines that are there.

/** Give one log its filter and its following. */
export function mount(log) {
  const box = log.querySelector("[data-log-lines]");
  const filter = log.querySelector("[data-log-filter]");
  const follow = log.querySelector("[data-log-follow]");
  const before = Number(log.dataset.logFirst); // lines of the log that are not on this page
  const lines = () => box.querySelectorAll(".log-line");

  const apply = () => {
    const wanted = filter.value.trim().toLowerCase();
    lines().forEach((line) => (line.hidden = wanted !== "" && !line.textContent.toLowerCase().includes(wanted)));
  };
  const toEnd = () => follow.checked && (box.scrollTop = box.scrollHeight);

  filter.addEventListener("input", apply);
  follow.addEventListener("change", toEnd);
  box.addEventListener("wheel", (event) => event.deltaY < 0 && (follow.checked = false), { passive: true });
  box.addEventListener("htmx:configRequest", (event) => (event.detail.parameters.after = before + lines().length));
  new MutationObserver(() => {
    apply();
    toEnd();
  }).observe(box, { childList: true });
  toEnd();
}
