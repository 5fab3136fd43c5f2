// Turns <time data-time="datetime|relative|date|clock"> from UTC into the viewer's zone and language.
const language = document.documentElement.lang || undefined;
const FORMATS = {
  datetime: { dateStyle: "medium", timeStyle: "short" },
  date: { dateStyle: "medium" },
  clock: { timeStyle: "medium", hourCycle: "h23" },
};
const full = new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 7], ["week", 4.35], ["month", 12], ["year", Infinity]];
const REFRESH_MS = 20_000;

/** Return a moment as "5 minutes ago". */
export function ago(moment, now = Date.now()) {
  let amount = (moment - now) / 1000;
  if (Math.abs(amount) < 5) amount = 0;
  for (const [unit, size] of STEPS) {
    if (Math.abs(amount) < size) return relative.format(Math.round(amount), unit);
    amount /= size;
  }
}

function show(element) {
  const moment = new Date(element.dateTime);
  if (Number.isNaN(moment.getTime())) return;
  const style = element.dataset.time;
  element.textContent = style === "relative" ? ago(moment) : new Intl.DateTimeFormat(language, FORMATS[style]).format(moment);
  element.title = full.format(moment);
}

setInterval(() => document.querySelectorAll("time[data-time=relative]").forEach(show), REFRESH_MS);

/** Rewrite one <time>. */
export function mount(element) {
  show(element);
}
