// Edit: one or several images, a prompt, and a mask or a strength, as far as the model supports them.

import { draw } from "./generation.js";
import { dice, offerModels, seedField } from "./draw.js";
import { button, el, field, showNote } from "./dom.js";
import { loaded, imagePlace } from "./images.js";
import { Mask } from "./mask.js";
import { isShown, receives } from "./tabs.js";

// The API's defaults.
const STRENGTH = 0.7;
const MASKED_STRENGTH = 1;

/** The image before and after, with a slider between them. */
function compare(before, after) {
  const above = el("img", { src: after, class: "after", alt: "after the edit" });
  const divider = el("div", { class: "divider" });
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before and after" });
  const cut = () => {
    above.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    divider.style.left = `${slider.value}%`;
  };
  slider.addEventListener("input", cut);
  cut();
  return el("div", {},
    el("div", { class: "compare" }, el("img", { src: before, alt: "before the edit" }), above, divider),
    slider, el("div", { class: "ends", "aria-hidden": "true" }, el("span", { textContent: "before" }), el("span", { textContent: "after" })));
}

/** The label of the prompt, for a model with the capabilities *able*; *byStrength*: it repaints. */
function wordsFor(able, byStrength) {
  if (byStrength) return "Describe the result";
  return able.includes("instruction") ? "What to change" : "What should be there instead";
}

export function startEdit(panel) {
  const prompt = el("textarea", { required: true });
  const words = field("Describe the result", prompt);
  const model = el("select");
  const strong = el("output");
  const strength = el("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Strength" });
  const byStrength = el("input", { type: "checkbox" });
  const chooses = el("label", { class: "row" }, byStrength, "Repaint instead of following the instruction");
  const strengthRow = el("div", {}, el("label", {}, "Strength ", strong, strength),
    el("div", { class: "ends", "aria-hidden": "true" }, el("span", { textContent: "unchanged" }), el("span", { textContent: "completely new" })));
  const brush = el("input", { type: "range", min: 0.02, max: 0.4, step: 0.01, value: 0.12 });
  const clear = button("Clear mask", () => { mask?.clear(); followMask(); });
  const masking = el("div", {}, el("p", { class: "note", textContent: "Paint on the image to change only that area." }),
    field("Brush size", brush), clear);
  const { seed, row } = seedField();
  const note = el("p", { class: "note", role: "status" });
  const thumbs = el("div", { class: "thumbs", role: "group", "aria-label": "Images of this edit" });
  const easel = el("div", { class: "easel" });
  const empty = el("p", { class: "empty", textContent: "Choose an image. It appears here." });
  const results = el("div", { class: "results" });
  let images = []; // {uri, image}; the first is edited
  let mask = null; // on the first image
  let able = [];
  let imagesOfModel = 1;
  let strengthChosen = false;

  const most = () => (byStrength.checked ? 1 : imagesOfModel);
  const sent = () => images.slice(0, most());

  async function add(uri) {
    const image = await loaded(uri);
    if (most() === 1) images = [];
    if (images.length >= most()) throw new Error(`This model accepts at most ${most()} images.`);
    images.push({ uri, image });
    show();
  }

  function thumb({ uri }, at) {
    const name = at === 0 ? "the image to edit" : `reference image ${at + 1}`;
    const remove = button("\u00d7", () => { images.splice(at, 1); show(); }, { "aria-label": `Remove ${name}` });
    return el("div", { class: at < most() ? "one" : "one left-out" }, el("img", { src: uri, alt: name }), remove);
  }

  function show() {
    const first = images[0];
    empty.hidden = Boolean(first);
    thumbs.replaceChildren(...(images.length > 1 ? images.map(thumb) : []));
    if (mask?.image !== first?.image) {
      mask = first ? new Mask(first.image, () => Number(brush.value), followMask) : null;
    }
    followMask();
    if (!first) return easel.replaceChildren();
    const { image } = first;
    image.alt = "the image to edit";
    easel.style.maxWidth = `min(36rem, ${(50 * image.naturalWidth) / image.naturalHeight}vh)`;
    easel.replaceChildren(image, ...(able.includes("mask") ? [mask.canvas, mask.cursor] : []));
    const size = `${image.naturalWidth} \u00d7 ${image.naturalHeight}`;
    const left = images.length - sent().length;
    showNote(note, left ? `${size}; repainting uses only the first image` : size);
  }

  /** A mask is replaced completely, unless the user has chosen a strength. */
  function followMask() {
    if (!strengthChosen) strength.value = mask && !mask.empty && able.includes("mask") ? MASKED_STRENGTH : STRENGTH;
    strong.textContent = Number(strength.value).toFixed(2);
  }

  function fit(chosen) {
    able = chosen?.capabilities ?? [];
    imagesOfModel = chosen?.max_images ?? 1;
    chooses.hidden = !(able.includes("strength") && able.includes("instruction"));
    byStrength.checked = !able.includes("instruction") && able.includes("strength");
    fitWay();
  }

  function fitWay() {
    strengthRow.hidden = !byStrength.checked;
    masking.hidden = !able.includes("mask");
    words.firstChild.textContent = wordsFor(able, byStrength.checked);
    show();
  }

  const failed = (error) => showNote(note, error.message, { bad: true });
  const form = el("form", { "aria-label": "Edit" },
    imagePlace("Choose an image", { take: add, failed, listens: () => isShown("edit") }),
    thumbs, note, words, field("Model", model), chooses, strengthRow, masking, row,
    el("p", { class: "actions" }, el("button", { class: "main", textContent: "Edit" })));
  byStrength.addEventListener("change", fitWay);
  strength.addEventListener("input", () => { strengthChosen = true; followMask(); });
  offerModels(model, "edit", fit);
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (!images.length) return showNote(note, "Choose an image first.", { bad: true });
    const uris = sent().map(({ uri }) => uri);
    const body = { prompt: prompt.value, model: model.value, image: uris.length > 1 ? uris : uris[0] };
    body.seed = seed.value === "" ? dice() : Number(seed.value);
    if (byStrength.checked) body.strength = Number(strength.value);
    if (able.includes("mask") && !mask.empty) body.mask = mask.uri();
    const { card } = draw("v1/images/edits", body, {
      words: prompt.value, extra: (image) => compare(uris[0], image.uri),
    });
    results.prepend(card);
    card.scrollIntoView({ block: "nearest" });
  });
  receives("edit", (uri) => {
    images = [];
    add(uri).catch(failed);
  });
  panel.append(el("div", { class: "work" }, form, el("div", { class: "results" }, empty, easel, results)));
}
