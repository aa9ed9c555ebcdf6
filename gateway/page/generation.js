// One running image request: what it waits for, its steps, previews and results.

import { isAbort, key, stream } from "./api.js";
import { button, copy, el, showNote } from "./dom.js";
import { dataUri, download } from "./images.js";
import { live } from "./live.js";
import { asCurl, asPython, base } from "./recipe.js";
import { handOver } from "./tabs.js";

const STEP = /^step (\d+) of (\d+)/;
const IMAGE = /, \w+ (\d+) of (\d+)/; // "step 2 of 4, image 1 of 3"

/** 0 to 1 from a comment such as "step 2 of 4, image 1 of 3, about 12 s left"; null for others. */
export function shareDone(comment) {
  const step = STEP.exec(comment);
  if (!step) return null;
  const [, image, images] = IMAGE.exec(comment) ?? [null, 1, 1];
  return (Number(image) - 1 + Number(step[1]) / Number(step[2])) / Number(images);
}

/** A card for the request *body* to *path*, and `done`: the images, or null. */
export function draw(path, body, { words, extra = () => null }) {
  const stop = new AbortController();
  const note = el("p", { class: "note", role: "status", textContent: "sent" });
  const bar = el("progress", { max: 1, "aria-label": "Progress" });
  const cancel = button("Cancel", () => stop.abort());
  const images = el("div", { class: "images" });
  const card = el("article", { class: "card" },
    el("p", { class: "words", textContent: words }), note, bar, cancel, images);
  const job = new Job(path, body, { note, bar, images, extra });
  const done = job.run(stop.signal).finally(() => { bar.remove(); cancel.remove(); live.refresh(); });
  return { card, done };
}

class Job {
  #slots = new Map();
  #finished = [];

  constructor(path, body, { note, bar, images, extra }) {
    Object.assign(this, { path, body, note, bar, images, extra, began: Date.now(), last: "" });
  }

  async run(signal) {
    const ticking = setInterval(() => this.#tick(), 500);
    try {
      const asked = { ...this.body, stream: true, partial_images: 2 };
      for await (const received of stream(this.path, asked, signal)) this.#take(received);
      if (!this.#finished.length) throw new Error("The stream ended without an image.");
      showNote(this.note, `${this.#seconds()} s`);
      return this.#finished;
    } catch (error) {
      if (isAbort(error)) showNote(this.note, `cancelled after ${this.#seconds()} s`);
      else showNote(this.note, error.message, { bad: true });
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
    showNote(this.note, `${waits} (${Math.floor((Date.now() - this.began) / 1000)} s)`);
  }

  #take({ comment, data }) {
    if (comment !== undefined) {
      // Before the model starts, system events say more than "loading".
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
      const image = el("img", { class: "draft", alt: "preview" });
      const figure = el("figure", {}, image);
      this.images.append(figure);
      this.#slots.set(index, { image, figure, done: false });
    }
    return this.#slots.get(index);
  }

  #finish(slot, image) {
    this.#finished.push(image);
    const again = { ...this.body, seed: image.seed, n: undefined };
    const withKey = { withKey: Boolean(key()) };
    const actions = el("div", { class: "actions" },
      button("Edit this", () => handOver("edit", image.uri)),
      button("Ask about this", () => handOver("ask", image.uri)),
      button("Download", () => download(image.uri, `image-${image.seed}.${image.form}`)),
      button("Copy as curl", (on) => copy(asCurl(base(), this.path, again, withKey), on.currentTarget)),
      this.body.image ? null
        : button("Copy as Python", (on) => copy(asPython(base(), again, withKey), on.currentTarget)));
    slot.figure.append(
      el("figcaption", { textContent: `seed ${image.seed}, ${image.size}, ${image.seconds.toFixed(1)} s` }),
      actions);
    const more = this.extra(image);
    if (more) slot.figure.prepend(more);
    if (more) slot.image.remove();
  }
}
