// One request for pictures while it runs: what it waits for, its steps, previews, and what came of it.

import { isAbort, key, stream } from "./api.js";
import { button, copy, el, tell } from "./dom.js";
import { dataUri, download } from "./images.js";
import { live } from "./live.js";
import { asCurl, asPython, base } from "./recipe.js";
import { handOver } from "./tabs.js";

const STEP = /^step (\d+) of (\d+)/;
const PICTURE = /picture (\d+) of (\d+)/;

/** 0 to 1 out of a comment such as "step 2 of 4, picture 1 of 3, about 12 s left"; null: it is none. */
export function shareDone(comment) {
  const step = STEP.exec(comment);
  if (!step) return null;
  const [, picture, pictures] = PICTURE.exec(comment) ?? [null, 1, 1];
  return (Number(picture) - 1 + Number(step[1]) / Number(step[2])) / Number(pictures);
}

/** A card that shows the request *body* to *path*, and `done`, the pictures or null. */
export function draw(path, body, { words, extra = () => null }) {
  const stop = new AbortController();
  const told = el("p", { class: "told", role: "status", textContent: "asked" });
  const bar = el("progress", { max: 1, "aria-label": "How far the drawing is" });
  const cancel = button("Cancel", () => stop.abort());
  const pictures = el("div", { class: "pictures" });
  const card = el("article", { class: "card" },
    el("p", { class: "words", textContent: words }), told, bar, cancel, pictures);
  const job = new Job(path, body, { told, bar, pictures, extra });
  const done = job.run(stop.signal).finally(() => { bar.remove(); cancel.remove(); live.refresh(); });
  return { card, done };
}

class Job {
  #slots = new Map();
  #finished = [];

  constructor(path, body, { told, bar, pictures, extra }) {
    Object.assign(this, { path, body, told, bar, pictures, extra, began: Date.now(), last: "" });
  }

  async run(signal) {
    const ticking = setInterval(() => this.#tick(), 500);
    try {
      const asked = { ...this.body, stream: true, partial_images: 2 };
      for await (const happened of stream(this.path, asked, signal)) this.#take(happened);
      if (!this.#finished.length) throw new Error("The stream ended without a picture.");
      tell(this.told, `${this.#seconds()} s`);
      return this.#finished;
    } catch (error) {
      if (isAbort(error)) tell(this.told, `cancelled after ${this.#seconds()} s`);
      else tell(this.told, error.message, { bad: true });
      for (const slot of this.#slots.values()) if (!slot.done) slot.figure.remove();
      return null;
    } finally {
      clearInterval(ticking);
    }
  }

  #seconds() {
    return ((Date.now() - this.began) / 1000).toFixed(1);
  }

  #tick() {
    const waits = this.last || live.waitsFor(this.body.model) || "waiting";
    tell(this.told, `${waits} (${Math.floor((Date.now() - this.began) / 1000)} s)`);
  }

  #take({ comment, data }) {
    if (comment !== undefined) {
      // Until the model has begun, the events of the system know more than "loading".
      const begun = comment === "started" || shareDone(comment) !== null;
      this.last = begun ? comment.replace(", about 0 s left", "") : "";
      const share = shareDone(comment);
      if (share !== null) this.bar.value = share;
      this.#tick();
      return;
    }
    const { type, b64_json, image_index: index, output_format: form, usage, size } = JSON.parse(data);
    const slot = this.#slot(index);
    slot.image.src = dataUri(b64_json, form);
    if (!type.endsWith(".completed")) return;
    slot.done = true;
    slot.image.className = "";
    slot.image.alt = this.body.prompt;
    this.#finish(slot, { uri: slot.image.src, form, size, seed: usage.seed, seconds: usage.latency });
  }

  #slot(index) {
    if (!this.#slots.has(index)) {
      const image = el("img", { class: "draft", alt: "a preview" });
      const figure = el("figure", {}, image);
      this.pictures.append(figure);
      this.#slots.set(index, { image, figure, done: false });
    }
    return this.#slots.get(index);
  }

  #finish(slot, picture) {
    this.#finished.push(picture);
    const again = { ...this.body, seed: picture.seed, n: undefined };
    const withKey = { withKey: Boolean(key()) };
    const actions = el("div", { class: "actions" },
      button("Edit this", () => handOver("edit", picture.uri)),
      button("Ask about this", () => handOver("ask", picture.uri)),
      button("Download", () => download(picture.uri, `picture-${picture.seed}.${picture.form}`)),
      button("Copy as curl", (on) => copy(asCurl(base(), this.path, again, withKey), on.currentTarget)),
      this.body.image ? null
        : button("Copy as Python", (on) => copy(asPython(base(), again, withKey), on.currentTarget)));
    slot.figure.append(
      el("figcaption", { textContent: `seed ${picture.seed}, ${picture.size}, ${picture.seconds.toFixed(1)} s` }),
      actions);
    const more = this.extra(picture);
    if (more) slot.figure.prepend(more);
    if (more) slot.image.remove();
  }
}
