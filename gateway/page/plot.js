// Memory over time, with a line where a worker was unloaded. Uses uPlot (uplot-license.txt).

import { el } from "./dom.js";

const KEPT = 600; // points
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400]; // seconds between two
const SERIES = [["charged", "--accent"], ["measured", "--good"], ["budget", "--bad"]];
const time = (seconds) => (seconds === undefined ? "" : new Date(seconds * 1000).toLocaleTimeString());
const memory = (gb) => (gb === undefined ? "" : `${gb.toFixed(2)} GB`);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class MemoryPlot {
  #data = [[], [], [], []];
  #marks = []; // [seconds, alias]
  #plot = null;

  constructor() {
    this.place = el("div", { role: "img", "aria-label": "Memory over time" });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#make());
    // In a frame of its own: it changes the size that is observed.
    new ResizeObserver(() => requestAnimationFrame(() => this.#fit())).observe(this.place);
  }

  /** GiB at *at*, milliseconds. */
  add(at, charged, measured, budget) {
    [at / 1000, charged, measured, budget].forEach((value, i) => {
      this.#data[i].push(value);
      if (this.#data[i].length > KEPT) this.#data[i].shift();
    });
    this.#marks = this.#marks.filter(([when]) => when >= this.#data[0][0]);
    this.place.setAttribute("aria-label",
      `Memory: ${charged.toFixed(2)} of ${budget.toFixed(2)} GB charged, ${measured.toFixed(2)} measured`);
    this.#plot?.setData(this.#data);
  }

  mark(at, alias) {
    this.#marks.push([at / 1000, alias]);
    this.#plot?.redraw();
  }

  #fit() {
    if (!this.place.clientWidth) return;
    if (!this.#plot) this.#make();
    this.#plot?.setSize({ width: this.place.clientWidth, height: 240 });
  }

  #make() {
    if (!this.place.clientWidth) return;
    if (!window.uPlot) {
      // uPlot uses the browser's language; some Linux browsers report an invalid one ("C").
      this.place.textContent = "This browser can't draw the plot.";
      return;
    }
    this.#plot?.destroy();
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    const lines = SERIES.map(([label, name]) => ({
      label, stroke: color(name), width: 2, points: { show: false },
      // The latest value if there is no pointer.
      value: (plot, gb, at) => memory(gb ?? plot.data[at].at(-1)),
      dash: label === "budget" ? [6, 4] : undefined,
    }));
    this.#plot = new window.uPlot({
      width: this.place.clientWidth, height: 240, series: [{ value: (plot, at) => time(at ?? plot.data[0].at(-1)) }, ...lines],
      axes: [{ ...axis, incrs: TICKS }, { ...axis, values: (_, ticks) => ticks.map((gb) => `${gb} GB`), size: 64 }],
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      hooks: { draw: [(plot) => this.#drawMarks(plot)] },
    }, this.#data, this.place);
  }

  #drawMarks(plot) {
    const { ctx: pen, bbox: { top, height } } = plot;
    pen.save();
    pen.strokeStyle = pen.fillStyle = color("--warn");
    pen.textAlign = "right";
    pen.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    for (const [at, alias] of this.#marks) {
      const x = Math.round(plot.valToPos(at, "x", true));
      pen.beginPath();
      pen.moveTo(x, top);
      pen.lineTo(x, top + height);
      pen.stroke();
      pen.fillText(`${alias} unloaded`, x - 4, top + 36 * devicePixelRatio);
    }
    pen.restore();
  }
}
