// The measurements of one run, asked for again and again until the run is done.
const PERIOD_MS = 1500;
const SLOWEST_MS = 20_000;
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
      await this.ask();
      this.wait = PERIOD_MS;
    } catch {
      this.wait = Math.min(this.wait * 2, SLOWEST_MS);
    }
    this.asking = false;
    if (!this.done) this.timer = setTimeout(() => this.poll(), this.wait);
  }

  async ask() {
    const address = new URL(this.url, location.href);
    if (this.next !== null) address.searchParams.set("after", this.next);
    const response = await fetch(address, { headers: { Accept: "application/json" }, credentials: "same-origin" });
    if (!response.ok) throw new Error(response.status);
    const { points, done, next } = await response.json();
    // A resumed run measures some steps again, and one step may come in two parts (training, then validation).
    for (const { step, ...values } of points) {
      const known = this.points.get(step) ?? {};
      for (const [name, value] of Object.entries(values)) if (Number.isFinite(value)) known[name] = value;
      this.points.set(step, known);
    }
    this.next = next ?? this.next;
    this.done = done;
    if (points.length || done) this.listeners.forEach((listener) => listener());
  }
}

/** Return the feed of an address; charts of the same address share one. */
export function feedOf(url) {
  if (!feeds.has(url)) feeds.set(url, new Feed(url));
  return feeds.get(url);
}
