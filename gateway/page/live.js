// What the system is doing, kept up by one stream of events for the whole page.
// Rules: the status is asked for when an event says that it changed, and at the stream's heartbeats, at
// most once a second; a stream that ends is opened again, slower each time, from the last event seen.

import { ApiError, ask, getJson, wanted } from "./api.js";
import { readEvents } from "./sse.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const BETWEEN = 1000;

/** Tells "status", "models", "event" ({detail: {kind, data}}), "up" and "down". */
class Live extends EventTarget {
  status = null;
  models = [];
  up = false;
  #lastId = "";
  #wait = FIRST_WAIT;
  #askedAt = 0;
  #timer = 0;

  start() {
    this.#run();
  }

  async #run() {
    for (;;) {
      let wrongKey = false;
      try {
        await this.#follow();
      } catch (error) {
        wrongKey = error instanceof ApiError && error.status === 401;
      }
      this.#say(false);
      if (wrongKey) await new Promise((go) => wanted.addEventListener("changed", go, { once: true }));
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
        this.dispatchEvent(new CustomEvent("event", { detail: { kind: event, data: JSON.parse(data) } }));
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

  /** What a request for *alias* waits for, in words; "" when it waits for nothing that is known. */
  waitsFor(alias) {
    const model = this.status?.models[alias];
    if (!model || model.status === "ready") return "";
    if (model.status !== "starting") return `${alias} is ${model.status}`;
    const { done_bytes: done, total_bytes: total, eta_seconds: eta } = model.download;
    if (model.phase !== "downloading" || !total) return `loading ${alias}: ${model.phase || "starting"}`;
    const share = `downloading ${alias}, ${Math.floor((100 * done) / total)} %`;
    return eta >= 1 ? `${share}, about ${Math.round(eta)} s` : share;
  }
}

export const live = new Live();

/** The models that can do *what*, the one to be offered first in front: loaded, or else the largest. */
export function modelsFor(what) {
  const rank = (model) => (model.state === "ready" ? 1e6 : 0) + model.memory_gb;
  return live.models
    .filter((model) => model.capabilities.includes(what))
    .sort((a, b) => rank(b) - rank(a));
}
