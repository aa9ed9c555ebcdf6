// A mask painted over an image: white is redrawn, black is kept.
// Keyboard: arrow keys move the brush, space paints.

import { el } from "./dom.js";

export class Mask {
  #last = null;
  #at = null;
  #brush;
  #begun;

  /** *brush()*: brush width as a share of the image width. *begun* is called at the first stroke. */
  constructor(image, brush, begun) {
    this.image = image;
    this.#brush = brush;
    this.#begun = begun;
    this.empty = true;
    this.canvas = el("canvas", {
      width: image.naturalWidth, height: image.naturalHeight, tabIndex: 0, role: "application",
      "aria-label": "Mask: paint the area to redraw. Arrow keys move the brush, space paints.",
    });
    this.cursor = el("div", { class: "cursor", hidden: true });
    const on = (kind, act) => this.canvas.addEventListener(kind, act);
    on("pointerdown", (e) => { this.canvas.setPointerCapture(e.pointerId); this.#paintTo(this.#point(e)); });
    on("pointermove", (e) => { if (e.buttons) this.#paintTo(this.#point(e)); });
    on("pointerup", () => { this.#last = null; });
    on("pointercancel", () => { this.#last = null; });
    on("keydown", (e) => this.#key(e));
    on("blur", () => { this.cursor.hidden = true; });
  }

  get #width() {
    return Math.max(2, this.#brush() * this.canvas.width);
  }

  #point(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.canvas.width, ((event.clientY - top) / height) * this.canvas.height];
  }

  #paintTo(point) {
    const pen = this.canvas.getContext("2d");
    pen.strokeStyle = pen.fillStyle = "#e0457b";
    pen.lineWidth = this.#width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(this.#last ?? point));
    pen.lineTo(...point);
    pen.stroke();
    // A zero-length line leaves no mark, but a tap must leave a dot.
    pen.beginPath();
    pen.arc(...point, this.#width / 2, 0, 2 * Math.PI);
    pen.fill();
    this.#last = point;
    const first = this.empty;
    this.empty = false;
    if (first) this.#begun();
  }

  #key(event) {
    const { width, height } = this.canvas;
    const step = this.#width / 2;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    this.#at ??= [width / 2, height / 2];
    if (move) this.#at = [Math.min(width, Math.max(0, this.#at[0] + move[0])), Math.min(height, Math.max(0, this.#at[1] + move[1]))];
    else {
      this.#paintTo(this.#at);
      this.#last = null;
    }
    this.cursor.hidden = false;
    this.cursor.style.left = `${(100 * this.#at[0]) / width}%`;
    this.cursor.style.top = `${(100 * this.#at[1]) / height}%`;
  }

  clear() {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.empty = true;
  }

  /** In the API's form: white where painted, black elsewhere, nothing transparent. */
  uri() {
    const { width, height } = this.canvas;
    const made = el("canvas", { width, height });
    const pen = made.getContext("2d");
    pen.drawImage(this.canvas, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    return made.toDataURL("image/png");
  }
}
