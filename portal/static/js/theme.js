// Light, dark or as the system. The choice is a cookie, so the server renders it and nothing flashes.
const ONE_YEAR_S = 365 * 24 * 3600;

function chosen() {
  return document.documentElement.dataset.bsTheme ?? "system";
}

function choose(theme) {
  if (theme === "system") delete document.documentElement.dataset.bsTheme;
  else document.documentElement.dataset.bsTheme = theme;
  const age = theme === "system" ? 0 : ONE_YEAR_S;
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `theme=${theme}; path=/; max-age=${age}; SameSite=Lax${secure}`;
  document.dispatchEvent(new Event("portal:theme"));
}

/** Show the choice and follow it. */
export function mount(group) {
  const show = () => group.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", one.value === chosen()));
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    choose(button.value);
    show();
  });
  group.hidden = false;
  show();
}
