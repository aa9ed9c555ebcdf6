// System: workers, memory over time, recent transitions, logs and requests.

import { ask, getJson } from "./api.js";
import { button, el, showNote } from "./dom.js";
import { live } from "./live.js";
import { logTail } from "./logs.js";
import { MemoryPlot } from "./plot.js";
import { isShown, shown } from "./tabs.js";

const UNLOADING = ["draining", "stopping", "failed"];
const REFRESH_MS = 3000;
const KEPT = 8; // transitions shown
const gb = (value) => `${value.toFixed(2)} GB`;
const clock = (at) => new Date(at).toLocaleTimeString();
const ms = (value) => (value === undefined ? "" : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);

class Card {
  constructor(alias) {
    this.alias = alias;
    this.state = el("span", { class: "state" });
    this.note = el("p", { class: "note", role: "status" });
    this.meter = el("meter", { min: 0, "aria-label": `Memory of ${alias}` });
    this.facts = el("dl");
    this.load = button("Load", () => this.#request("warm"));
    this.unload = button("Unload", () => this.#request("evict"));
    this.place = el("article", { class: "card", "data-alias": alias },
      el("h3", {}, alias, this.state), this.meter, this.facts, this.note,
      el("p", { class: "actions" }, this.load, this.unload));
  }

  async #request(what) {
    showNote(this.note, what === "warm" ? "loading" : "unloading");
    try {
      await ask(`v1/system/${what}/${encodeURIComponent(this.alias)}`, { method: "POST" });
      showNote(this.note, "");
    } catch (error) {
      showNote(this.note, error.message, { bad: true });
    }
    live.refresh();
  }

  show(status) {
    const model = status.models[this.alias];
    const running = status.workers[this.alias];
    this.model = model;
    this.running = running;
    const stays = model.idle_timeout_seconds; // -1: no limit
    this.idleEnd = !running || running.active_requests ? 0
      : stays < 0 ? Infinity : status.at + 1000 * (stays - running.idle_seconds);
    this.state.className = `state ${model.status}`;
    this.state.textContent = model.status === "starting"
      ? `${model.phase || "starting"}${live.howFar(this.alias)}` : model.status;
    this.meter.max = status.memory.budget_gb || 1;
    this.meter.value = model.measured_gb;
    this.load.disabled = model.status === "ready" || model.status === "starting";
    this.unload.disabled = model.status === "stopped";
    this.facts.replaceChildren(...this.#rows(status).flatMap(([name, value]) =>
      [el("dt", { textContent: name }), el("dd", { textContent: value })]));
    this.tick();
  }

  #rows({ memory }) {
    const { model, running } = this;
    const { kind: generating, step, steps: allSteps } = model.drawing;
    const progress = generating ? `step ${step} of ${allSteps}` : "";
    const rows = [
      ["memory", running
        ? `${gb(model.measured_gb)} used, ${gb(model.memory_gb)} charged, budget ${gb(memory.budget_gb)}`
        : `needs ${gb(model.memory_gb)} of ${gb(memory.budget_gb)}`],
      ["requests", `${running?.active_requests ?? 0} running, ${model.queued} waiting, ${running?.request_count ?? 0} total`],
      ["unloads", ""],
    ];
    if (progress) rows.push(["progress", progress]);
    if (model.last_error) rows.push(["last error", model.last_error]);
    if (model.retry_in_seconds) rows.push(["can start in", `${Math.ceil(model.retry_in_seconds)} s`]);
    return rows;
  }

  /** Update the countdown between two statuses. */
  tick() {
    const note = [...this.facts.children].find((fact) => fact.textContent === "unloads")?.nextSibling;
    if (!note) return;
    const left = Math.ceil((this.idleEnd - Date.now()) / 1000);
    if (!this.running) note.textContent = "not loaded";
    else if (this.model.pinned) note.textContent = "never: pinned";
    else if (!this.idleEnd) note.textContent = "busy";
    else if (this.idleEnd === Infinity) note.textContent = "never: no idle time";
    else note.textContent = left > 0 ? `in ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} if idle` : "soon";
  }
}

function requestsTable() {
  const body = el("tbody");
  const head = ["time", "route", "alias", "status", "queue", "load", "model", "total"];
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...head.map((name, i) =>
    el("th", { scope: "col", textContent: name, class: i > 3 ? "number" : "" })))), body);
  const load = async () => {
    const { data } = await getJson("v1/system/requests");
    body.replaceChildren(...data.slice(0, 20).map((one) => {
      const route = one.path.replace("/v1/", "");
      const cells = [clock(one.at * 1000), route, one.alias, one.status];
      const times = [ms(one.queue_ms), ms(one.load_ms), ms(one.model_ms), ms(one.total_ms)];
      return el("tr", { title: one.error ?? "" }, ...cells.map((textContent) => el("td", { textContent })),
        ...times.map((textContent) => el("td", { textContent, class: "number" })));
    }));
  };
  const place = el("section", { class: "card", "aria-label": "Recent requests" },
    el("h2", { textContent: "Recent requests" }), el("div", { class: "wide", tabIndex: 0, role: "region", "aria-label": "Table of recent requests" }, table));
  return { place, load };
}

export function startSystem(panel) {
  const cards = new Map();
  const row = el("div", { class: "cards" });
  const memory = new MemoryPlot();
  const transitions = el("ul", { class: "transitions" });
  const summary = el("p", { class: "note" });
  const requests = requestsTable();

  function refreshRequests() {
    if (!isShown("system")) return;
    requests.load().catch(() => {}); // the connection line reports it
  }
  live.addEventListener("status", () => {
    const { status } = live;
    for (const alias of Object.keys(status.models)) {
      if (!cards.has(alias)) {
        cards.set(alias, new Card(alias));
        row.append(cards.get(alias).place);
      }
      cards.get(alias).show(status);
    }
    const { models_loaded_gb: charged, models_measured_gb: measured, budget_gb: budget, budget_reason: reason, pressure } = status.memory;
    memory.add(status.at, charged, measured, budget);
    summary.textContent = `${gb(charged)} of ${gb(budget)} charged, ${gb(measured)} measured; `
      + `${gb(status.memory.available_gb)} available on this machine, pressure ${pressure}.`
      + (reason ? ` Budget: ${reason}.` : "");
    refreshRequests();
  });
  live.addEventListener("event", ({ detail: { kind, data } }) => {
    if (kind !== "transition") return;
    // A drain and the stop after it count once.
    if (UNLOADING.includes(data.to) && !UNLOADING.includes(data.from)) memory.mark(Date.now(), data.alias);
    transitions.prepend(el("li", { textContent: `${clock(Date.now())}  ${data.alias}: ${data.from} \u2192 ${data.to}: ${data.reason}` }));
    while (transitions.children.length > KEPT) transitions.lastChild.remove();
  });
  setInterval(() => { if (isShown("system")) cards.forEach((card) => card.tick()); }, 1000);
  // No event reports other clients' requests to a loaded model.
  setInterval(() => { if (isShown("system") && live.up && !document.hidden) live.refresh(); }, REFRESH_MS);
  shown.addEventListener("system", () => live.refresh());
  panel.append(row, el("div", { class: "stack" },
    el("section", { class: "card", "aria-label": "Memory" }, el("h2", { textContent: "Memory" }), summary, memory.place, transitions),
    logTail(), requests.place));
}
