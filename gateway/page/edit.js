// Edit: a picture (or several), words, and where or how strongly; as much of it as the model can.

import { draw } from "./drawing.js";
import { dice, offerModels, seedField } from "./draw.js";
import { button, el, field, tell } from "./dom.js";
import { loaded, picturePlace } from "./images.js";
import { Mask } from "./mask.js";
import { isShown, receives } from "./tabs.js";

// As the API has them when a request names none.
const STRENGTH = 0.7;
const MASKED_STRENGTH = 1;

/** The picture before and after, with a slider between them. */
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

/** What the words of an edit tell a model that edits *byStrength* or can what *able* says. */
function wordsFor(able, byStrength) {
  if (byStrength) return "What it shall show";
  return able.includes("instruction") ? "What to change" : "What the marked part shall show";
}

export function startEdit(panel) {
  const prompt = el("textarea", { required: true });
  const words = field("What it shall show", prompt);
  const model = el("select");
  const strong = el("output");
  const strength = el("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Strength" });
  const byStrength = el("input", { type: "checkbox" });
  const chooses = el("label", { class: "row" }, byStrength, "redraw by strength, not by instruction");
  const strengthRow = el("div", {}, el("label", {}, "Strength ", strong, strength),
    el("div", { class: "ends", "aria-hidden": "true" }, el("span", { textContent: "keep it" }), el("span", { textContent: "redraw it" })));
  const brush = el("input", { type: "range", min: 0.02, max: 0.4, step: 0.01, value: 0.12 });
  const clear = button("Clear the mask", () => { mask?.clear(); followMask(); });
  const masking = el("div", {}, el("p", { class: "told", textContent: "Paint on the picture to change only a part of it." }),
    field("Brush for the mask", brush), clear);
  const { seed, row } = seedField();
  const told = el("p", { class: "told", role: "status" });
  const thumbs = el("div", { class: "thumbs", role: "group", "aria-label": "The pictures of this edit" });
  const easel = el("div", { class: "easel" });
  const empty = el("p", { class: "empty", textContent: "Choose a picture, and it appears here." });
  const results = el("div", { class: "results" });
  let pictures = []; // {uri, image}, the one to edit first
  let mask = null; // of the first
  let able = [];
  let imagesOfModel = 1;
  let strengthChosen = false;

  const most = () => (byStrength.checked ? 1 : imagesOfModel);
  const sent = () => pictures.slice(0, most());

  async function add(uri) {
    const image = await loaded(uri);
    if (most() === 1) pictures = [];
    if (pictures.length >= most()) throw new Error(`This model edits up to ${most()} pictures.`);
    pictures.push({ uri, image });
    show();
  }

  function thumb({ uri }, at) {
    const name = at === 0 ? "the picture to edit" : `picture ${at + 1}, to look at`;
    const remove = button("\u00d7", () => { pictures.splice(at, 1); show(); }, { "aria-label": `Remove ${name}` });
    return el("div", { class: at < most() ? "one" : "one left-out" }, el("img", { src: uri, alt: name }), remove);
  }

  function show() {
    const first = pictures[0];
    empty.hidden = Boolean(first);
    thumbs.replaceChildren(...(pictures.length > 1 ? pictures.map(thumb) : []));
    if (mask?.image !== first?.image) {
      mask = first ? new Mask(first.image, () => Number(brush.value), followMask) : null;
    }
    followMask();
    if (!first) return easel.replaceChildren();
    const { image } = first;
    image.alt = "the picture to edit";
    easel.style.maxWidth = `min(36rem, ${(50 * image.naturalWidth) / image.naturalHeight}vh)`;
    easel.replaceChildren(image, ...(able.includes("mask") ? [mask.canvas, mask.cursor] : []));
    const size = `${image.naturalWidth} \u00d7 ${image.naturalHeight}`;
    const left = pictures.length - sent().length;
    tell(told, left ? `${size}; by strength only the first picture is edited` : size);
  }

  /** What is marked is to be replaced, unless somebody has said how strongly. */
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

  const failed = (error) => tell(told, error.message, { bad: true });
  const form = el("form", { "aria-label": "Edit" },
    picturePlace("Choose a picture", { take: add, failed, listens: () => isShown("edit") }),
    thumbs, told, words, field("Model", model), chooses, strengthRow, masking, row,
    el("p", { class: "actions" }, el("button", { class: "main", textContent: "Edit" })));
  byStrength.addEventListener("change", fitWay);
  strength.addEventListener("input", () => { strengthChosen = true; followMask(); });
  offerModels(model, "edit", fit);
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (!pictures.length) return tell(told, "Choose a picture first.", { bad: true });
    const uris = sent().map(({ uri }) => uri);
    const body = { prompt: prompt.value, model: model.value, image: uris.length > 1 ? uris : uris[0] };
    body.seed = seed.value === "" ? dice() : Number(seed.value);
    if (byStrength.checked) body.strength = Number(strength.value);
    if (able.includes("mask") && !mask.empty) body.mask = mask.uri();
    const { card } = draw("v1/images/edits", body, {
      words: prompt.value, extra: (picture) => compare(uris[0], picture.uri),
    });
    results.prepend(card);
    card.scrollIntoView({ block: "nearest" });
  });
  receives("edit", (uri) => {
    pictures = [];
    add(uri).catch(failed);
  });
  panel.append(el("div", { class: "work" }, form, el("div", { class: "results" }, empty, easel, results)));
}
