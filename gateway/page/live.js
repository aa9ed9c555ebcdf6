// The system's live state, from one event stream for the whole page.
// Rules: the status is fetched when an event reports a change and on heartbeats (the System tab fetches
// it too), at most once a second. A stream that ends is reopened after the last event seen, with
// increasing delays.

import { ApiError, ask, getJson, keyEvents } from "./api.js";
import { readEvents } from "./sse.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const BETWEEN = 1000;
const LOADS = "vision-loads"; // in localStorage: how long each alias took to load last time, in milliseconds

/** Dispatches "status", "models", "event" ({detail: {kind, data}}), "up" and "down". */
class Live extends EventTarget {
  status = null;
  models = [];
  up = false;
  locked = false; // the gateway requires another key
  #lastId = "";
  #wait = FIRST_WAIT;
  #askedAt = 0;
  #timer = 0;
  #begun = new Map(); // alias: when its load began
  #took = JSON.parse(localStorage.getItem(LOADS) ?? "{}");

  start() {
    this.#run();
  }

  async #run() {
    for (;;) {
      this.locked = false;
      try {
        await this.#follow();
      } catch (error) {
        this.locked = error instanceof ApiError && error.status === 401;
      }
      this.#setUp(false);
      if (this.locked) await new Promise((go) => keyEvents.addEventListener("changed", go, { once: true }));
      else await new Promise((go) => setTimeout(go, this.#wait * (0.75 + Math.random() / 2)));
      this.#wait = Math.min(LONGEST_WAIT, this.#wait * 2);
    }
  }

  async #follow() {
    const headers = this.#lastId ? { "last-event-id": this.#lastId } : {};
    const answer = await ask("v1/system/events", { headers });
    for await (const { comment, event, data, id } of readEvents(answer.body)) {
      if (event === "error") return; // the gateway or the manager is stopping
      if (!this.up) this.#setUp(true);
      this.#wait = FIRST_WAIT;
      if (id) this.#lastId = id;
      if (comment === undefined) {
        const detail = { kind: event, data: JSON.parse(data) };
        if (event === "transition") this.#time(detail.data);
        this.dispatchEvent(new CustomEvent("event", { detail }));
      }
      this.refresh();
    }
  }

  #setUp(up) {
    this.up = up;
    this.dispatchEvent(new Event(up ? "up" : "down"));
  }

  /** Fetch the status soon; several calls are merged. */
  refresh() {
    if (this.#timer) return;
    const due = Math.max(50, this.#askedAt + BETWEEN - Date.now());
    this.#timer = setTimeout(() => { this.#timer = 0; this.#load(); }, due);
  }

  async #load() {
    if (this.locked) return; // the page has requested a key, and the user may look around without one
    this.#askedAt = Date.now();
    try {
      const [status, models] = await Promise.all([getJson("v1/system/status"), getJson("v1/models")]);
      this.status = { ...status, at: Date.now() };
      this.models = models.data;
    } catch {
      return; // the stream reports the connection
    }
    this.dispatchEvent(new Event("models"));
    this.dispatchEvent(new Event("status"));
  }

  #time({ alias, from, to }) {
    const begun = this.#begun.get(alias);
    this.#begun.delete(alias);
    if (to === "starting") this.#begun.set(alias, Date.now());
    if (to !== "ready" || from !== "starting" || !begun) return;
    this.#took[alias] = Date.now() - begun;
    localStorage.setItem(LOADS, JSON.stringify(this.#took));
  }

  /** The load progress of *alias*: ", 42 %, about 20 s"; "" if unknown. */
  howFar(alias) {
    const { done_bytes: done, total_bytes: total, eta_seconds: eta } = this.status.models[alias].download;
    if (total) return `, ${Math.floor((100 * done) / total)} %${eta >= 1 ? `, about ${Math.round(eta)} s` : ""}`;
    // A model's loads take similar times.
    const took = this.#took[alias];
    const left = took - (Date.now() - this.#begun.get(alias));
    return left > 0 ? `, ${Math.floor(100 * (1 - left / took))} %, about ${Math.ceil(left / 1000)} s` : "";
  }

  /** What a request for *alias* waits for, in words; "" if unknown or nothing. */
  waitsFor(alias) {
    const model = this.status?.models[alias];
    if (!model || model.status === "ready") return "";
    if (model.status === "starting") {
      return `${model.phase.startsWith("downloading") ? "downloading" : "loading"} ${alias}${this.howFar(alias)}`;
    }
    if (model.status === "failed") return `${alias} failed to start: ${model.last_error}`;
    return `waiting for memory for ${alias}`;
  }
}

export const live = new Live();

/** The models that support *what*: the configured default first, then loaded ones, then larger ones. */
export function modelsFor(what) {
  const rank = (model) =>
    (model.default_for.includes(what) ? 1e9 : 0) + (model.state === "ready" ? 1e6 : 0) + model.memory_gb;
  return live.models
    .filter((model) => model.capabilities.includes(what))
    .sort((a, b) => rank(b) - rank(a));
}
