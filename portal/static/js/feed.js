// The measurements of one run, asked for again and again until the run is done.
const PERIOD_MS = 1000;
const SLOWEST_MS = 20_000;
const BACKLOG = 200; // so many new steps at once are history: the next page is wanted now, not after the period
const feeds = new Map();

class Feed {
  constructor(url) {
    this.url = url;
    this.points = new Map(); // step → {metric: number}
    this.done = false;
    this.next = null;
    this.wait = PERIOD_MS;
    this.listeners = new Set();
    document.addEventListener("visibilitychange", () => document.hidden || this.poll());
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (this.done || document.hidden || this.asking) return;
    this.asking = true;
    try {
      this.wait = (await this.ask()) >= BACKLOG ? 0 : PERIOD_MS;
    } catch {
      this.wait = Math.min(Math.max(this.wait, PERIOD_MS) * 2, SLOWEST_MS);
    }
    this.asking = false;
    if (!this.done) this.timer = setTimeout(() => this.poll(), this.wait);
  }

  /** Fetch what is new, tell the charts, and return how many steps were not known before. */
  async ask() {
    const address = new URL(this.url, location.href);
    if (this.next !== null) address.searchParams.set("after", this.next);
    const response = await fetch(address, { headers: { Accept: "application/json" }, credentials: "same-origin" });
    if (!response.ok) throw new Error(response.status);
    const { points, done, next } = await response.json();
    // A resumed run measures some steps again, and one step may come in two parts (training, then validation).
    const before = this.points.size;
    let changed = done;
    for (const { step, ...values } of points) {
      if (!this.points.has(step)) this.points.set(step, {});
      const known = this.points.get(step);
      for (const [name, value] of Object.entries(values)) {
        if (!Number.isFinite(value) || known[name] === value) continue;
        known[name] = value;
        changed = true;
      }
    }
    this.next = next ?? this.next;
    this.done = done;
    if (changed) this.listeners.forEach((listener) => listener());
    return this.points.size - before;
  }
}

/** Return the feed of an address; charts of the same address share one. */
export function feedOf(url) {
  if (!feeds.has(url)) feeds.set(url, new Feed(url));
  return feeds.get(url);
}
