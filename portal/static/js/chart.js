// Live line charts. See components/_chart.html for the attributes.
import uPlot from "../vendor/uplot/uPlot.min.js";
import { make, text } from "./dom.js";
import { feedOf } from "./feed.js";
import { isSparse, percent, significant, smooth, table } from "./series.js";

const HEIGHT = 260;
const COLOURS = 6;
const MOST_ROWS = 60;

function named(pairs, scale) {
  return (pairs ? pairs.split(",") : []).map((pair) => {
    const [metric, name] = pair.trim().split("=");
    return [metric, name, scale];
  });
}

function lines(card) {
  const metrics = [...named(card.dataset.metrics, "y"), ...named(card.dataset.right, "share")];
  const sources = card.dataset.sources ? JSON.parse(card.dataset.sources) : [{ url: card.dataset.chart }];
  return sources.flatMap((source) =>
    metrics.map(([metric, name, scale]) => ({
      feed: feedOf(source.url),
      metric,
      scale,
      label: [source.label, (sources.length < 2 || metrics.length > 1) && (name || metric)].filter(Boolean).join(" · "),
    })),
  );
}

/** Canvas cannot read CSS variables; the colour of an element with the class can be asked for. */
function colourOf(card, className) {
  let probe = card.querySelector(`:scope > .${className}`);
  if (!probe) card.append((probe = make("span", { className, hidden: true })));
  return getComputedStyle(probe).color;
}

/** Write a tick without the noise of binary fractions: 0.0002, 1e-7. */
function shortest(tick) {
  return tick === null ? "" : String(+tick.toPrecision(4));
}

/** Return how much room the longest tick needs, in px; uPlot would cut it off. */
function wideEnough(_plot, ticks) {
  return 16 + 7 * Math.max(3, ...(ticks ?? []).map((tick) => tick.length));
}

/** Return a step as people read it: a number, or a moment where the x axis is time (data-moments). */
function moment(card, step) {
  if (!("moments" in card.dataset)) return step;
  return new Date(step * 1000).toLocaleString(document.documentElement.lang, { dateStyle: "short", timeStyle: "short" });
}

class Chart {
  constructor(card) {
    this.card = card;
    this.lines = lines(card);
    this.plotBox = card.querySelector("[data-plot]");
    this.slider = card.querySelector("[data-smoothing]");
    this.reset = card.querySelector("[data-reset]");
    this.numbers = card.querySelector("[data-numbers]");
    this.hidden = new Set();
    this.zoomed = false;
    this.keys = this.lines.map((line, index) => this.key(line, index));
    card.querySelector("[data-legend]").replaceChildren(...this.keys);
    this.listen();
    this.update();
  }

  listen() {
    const changed = () => this.card.isConnected && this.update();
    new Set(this.lines.map((line) => line.feed)).forEach((feed) => feed.listeners.add(changed));
    this.slider?.addEventListener("input", changed);
    this.numbers.addEventListener("toggle", changed);
    this.reset.addEventListener("click", () => document.dispatchEvent(new CustomEvent("portal:unzoom", { detail: this.group() })));
    document.addEventListener("portal:unzoom", (event) => event.detail === this.group() && this.unzoom());
    const repaint = () => this.plot?.redraw(false, true);
    document.addEventListener("portal:theme", repaint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.plotBox);
  }

  key(line, index) {
    const swatch = make("span", { className: `chart-swatch series-${(index % COLOURS) + 1}` });
    const key = make("button", { type: "button", className: "chart-key" }, swatch, `${line.label} `, make("b"));
    key.setAttribute("aria-pressed", "true");
    key.addEventListener("click", () => {
      if (!this.hidden.delete(index)) this.hidden.add(index);
      key.setAttribute("aria-pressed", String(!this.hidden.has(index)));
      this.update();
    });
    return key;
  }

  /** Charts with one data-sync share cursor and zoom; a chart without is its own group. */
  group() {
    return this.card.dataset.sync ?? this;
  }

  size() {
    return { width: Math.max(this.plotBox.clientWidth, 200), height: Number(this.card.dataset.height) || HEIGHT };
  }

  /** Return uPlot's columns: the steps, then per line what was measured and, dense lines only, the smoothed course. */
  columns() {
    const { steps, columns } = table(this.lines.map(({ feed, metric }) => [feed.points, metric]));
    const weight = Number(this.slider?.value ?? 0);
    this.sparse = columns.map(isSparse);
    const logarithmic = "log" in this.card.dataset;
    const shown = columns.map((column) => (logarithmic ? column.map((value) => (value > 0 ? value : null)) : column));
    this.smoothed = shown.map((column, index) => weight > 0 && !this.sparse[index]);
    this.measured = columns;
    return [steps, ...shown.flatMap((column, index) => [column, this.smoothed[index] ? smooth(column, weight) : column.map(() => null)])];
  }

  update() {
    const columns = this.columns();
    const empty = !this.measured.some((column) => column.some((value) => value !== null));
    const note = this.card.querySelector("[data-note]");
    if (note) note.hidden = !empty;
    if (note && empty && this.lines.every(({ feed }) => feed.done)) note.textContent = text("noPoints");
    if (empty) return;
    this.plot ??= new uPlot(this.options(), columns, this.plotBox);
    this.hideAndShow();
    const { min, max } = this.plot.scales.x;
    this.plot.setData(columns, !this.zoomed);
    // New points must not throw away the stretch that somebody is looking at.
    if (this.zoomed) this.plot.setScale("x", { min, max });
    this.readOut(null);
    this.writeNumbers();
  }

  /** The same as a table, thinned out to a readable length, for those who cannot see or use the drawing. */
  writeNumbers() {
    this.numbers.hidden = false;
    if (!this.numbers.open) return;
    const steps = this.plot.data[0];
    const stride = Math.ceil(steps.length / MOST_ROWS);
    const cells = (tag, words) => words.map((word) => make(tag, { className: "numeric", textContent: word }));
    const rows = steps.flatMap((step, at) => {
      const kept = at % stride === 0 || at === steps.length - 1 || this.sparse.some((sparse, line) => sparse && this.measured[line][at] !== null);
      return kept ? [make("tr", {}, ...cells("td", [moment(this.card, step), ...this.measured.map((column, index) => this.write(index, column[at]))]))] : [];
    });
    this.numbers.querySelector("thead tr").replaceChildren(...cells("th", [text("moments" in this.card.dataset ? "time" : "step"), ...this.lines.map((line) => line.label)]));
    this.numbers.querySelector("tbody").replaceChildren(...rows);
  }

  hideAndShow() {
    this.lines.forEach((_line, index) => {
      for (const one of [index * 2 + 1, index * 2 + 2]) {
        const show = !this.hidden.has(index);
        if (this.plot.series[one].show !== show) this.plot.setSeries(one, { show });
      }
    });
  }

  unzoom() {
    this.zoomed = false;
    this.reset.hidden = true;
    this.plot?.setData(this.plot.data, true);
  }

  /** A value as its axis writes it: shares in per cent. */
  write(index, value) {
    const isShare = this.lines[index].scale === "share" && value !== null && value !== undefined;
    if (isShare) return percent(value, 1);
    const unit = this.card.dataset.unit && value !== null && value !== undefined ? ` ${this.card.dataset.unit}` : "";
    return `${significant(value)}${unit}`;
  }

  readOut(at) {
    const steps = this.plot.data[0];
    const isMoments = "moments" in this.card.dataset;
    const written = this.measured.map((column, index) => {
      // The last step of a run may lack a metric; of a moment in which nothing was measured, nothing is said.
      const value = at === null && !isMoments ? column.findLast((one) => one !== null) : column[at ?? steps.length - 1];
      this.keys[index].querySelector("b").textContent = this.write(index, value);
      return value;
    });
    const step = steps[at ?? steps.length - 1];
    const values = written.length === 1 ? `: ${this.write(0, written[0])}` : "";
    this.card.querySelector("[data-summary]").textContent =
      isMoments ? `${moment(this.card, step)}${values}` : `${text("step")} ${step}${values}`;
  }

  options() {
    const axis = { stroke: () => colourOf(this.card, "chart-axis-probe"), font: "12px system-ui, sans-serif" };
    const grid = { stroke: () => colourOf(this.card, "chart-grid-probe"), width: 1 };
    const sync = this.card.dataset.sync;
    return {
      ...this.size(),
      padding: [8, 18, 0, 0], // the last time of an axis is as wide
      legend: { show: false },
      cursor: { y: false, focus: { prox: 24 }, ...(sync && { sync: { key: sync } }) },
      scales: { x: { time: "moments" in this.card.dataset }, y: "log" in this.card.dataset ? { distr: 3 } : {}, share: { range: [0, 1] } },
      axes: [
        { ...axis, grid: { show: false }, ticks: grid, size: 32 },
        { ...axis, grid, ticks: { show: false }, gap: 6, size: wideEnough, values: (_plot, ticks) => ticks.map(shortest) },
        ...(this.lines.some(({ scale }) => scale === "share") ? [this.shares(axis)] : []),
      ],
      series: [{}, ...this.lines.flatMap((_line, index) => this.pair(index))],
      hooks: {
        setCursor: [(plot) => this.readOut(plot.cursor.idx ?? null)],
        setSelect: [(plot) => plot.select.width > 0 && ((this.zoomed = true), (this.reset.hidden = false))],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => this.reset.click())],
      },
    };
  }

  /** The axis at the right, for shares: 0 to 100%. */
  shares(axis) {
    return { ...axis, scale: "share", side: 1, grid: { show: false }, ticks: { show: false }, gap: 6, size: 52, values: (_plot, ticks) => ticks.map((tick) => percent(tick)) };
  }

  /** The measured points (pale under a smoothed course) and the smoothed course of one line. */
  pair(index) {
    const name = `series-${(index % COLOURS) + 1}`;
    const colour = () => colourOf(this.card, name);
    const pale = () => colour().replace(/^rgb\((.+)\)$/, this.smoothed[index] ? "rgba($1, 0.28)" : "rgb($1)");
    const { scale } = this.lines[index];
    const dots = { show: () => this.sparse[index], size: 7, stroke: colour, fill: colour };
    return [
      { stroke: pale, scale, width: 1.75, spanGaps: true, points: dots },
      { stroke: colour, scale, width: 2.25, spanGaps: true, points: { show: false } },
    ];
  }
}

/** Draw one chart and keep it up to date. */
export function mount(card) {
  new Chart(card);
}
