// What the system is doing, kept up by one stream of events for the whole page.
// Rules: the status is asked for when an event says that it changed, and at the stream's heartbeats (the
// System tab asks besides), at most once a second; a stream that ends is opened again, slower each time,
// from the last event seen.

import { ApiError, ask, getJson, wanted } from "./api.js";
import { readEvents } from "./sse.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const BETWEEN = 1000;
const LOADS = "vision-loads"; // kept in the browser: milliseconds that each alias took to load the last time

/** Tells "status", "models", "event" ({detail: {kind, data}}), "up" and "down". */
class Live extends EventTarget {
  status = null;
  models = [];
  up = false;
  locked = false; // it wants another key
  #lastId = "";
  #wait = FIRST_WAIT;
  #askedAt = 0;
  #timer = 0;
  #begun = new Map(); // alias: when its load was seen to begin
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
      this.#say(false);
      if (this.locked) await new Promise((go) => wanted.addEventListener("changed", go, { once: true }));
      else await new Promise((go) => setTimeout(go, this.#wait * (0.75 + Math.random() / 2)));
      this.#wait = Math.min(LONGEST_WAIT, this.#wait * 2);
    }
  }

  async #follow() {
    const headers = this.#lastId ? { "last-event-id": this.#lastId } : {};
    const answer = await ask("v1/system/events", { headers });
    for await (const { comment, event, data, id } of readEvents(answer.body)) {
      if (event === "error") return; // the gateway or the manager stops
      if (!this.up) this.#say(true);
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

  #say(up) {
    this.up = up;
    this.dispatchEvent(new Event(up ? "up" : "down"));
  }

  /** Ask for the status soon; many calls are one. */
  refresh() {
    if (this.#timer) return;
    const due = Math.max(50, this.#askedAt + BETWEEN - Date.now());
    this.#timer = setTimeout(() => { this.#timer = 0; this.#load(); }, due);
  }

  async #load() {
    if (this.locked) return; // somebody was told, and may want to look around without a key
    this.#askedAt = Date.now();
    try {
      const [status, models] = await Promise.all([getJson("v1/system/status"), getJson("v1/models")]);
      this.status = { ...status, at: Date.now() };
      this.models = models.data;
    } catch {
      return; // the stream tells whether anybody is there
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

  /** How far the load of *alias* is: ", 42 %, about 20 s"; "" when nothing is known. */
  howFar(alias) {
    const { done_bytes: done, total_bytes: total, eta_seconds: eta } = this.status.models[alias].download;
    if (total) return `, ${Math.floor((100 * done) / total)} %${eta >= 1 ? `, about ${Math.round(eta)} s` : ""}`;
    // Loads of a model take alike.
    const took = this.#took[alias];
    const left = took - (Date.now() - this.#begun.get(alias));
    return left > 0 ? `, ${Math.floor(100 * (1 - left / took))} %, about ${Math.ceil(left / 1000)} s` : "";
  }

  /** What a request for *alias* waits for, in words; "" when it waits for nothing that is known. */
  waitsFor(alias) {
    const model = this.status?.models[alias];
    if (!model || model.status === "ready") return "";
    if (model.status === "starting") {
      return `${model.phase.startsWith("downloading") ? "downloading" : "loading"} ${alias}${this.howFar(alias)}`;
    }
    if (model.status === "failed") return `${alias} did not start: ${model.last_error}`;
    return `waiting for memory for ${alias}`;
  }
}

export const live = new Live();

/** The models that can do *what*, the one to be offered first in front: what the settings say, a loaded one, the largest. */
export function modelsFor(what) {
  const rank = (model) =>
    (model.default_for.includes(what) ? 1e9 : 0) + (model.state === "ready" ? 1e6 : 0) + model.memory_gb;
  return live.models
    .filter((model) => model.capabilities.includes(what))
    .sort((a, b) => rank(b) - rank(a));
}
