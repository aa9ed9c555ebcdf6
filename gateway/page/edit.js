// Edit: a picture, words, and where or how strongly.

import { draw } from "./drawing.js";
import { dice, offerModels, seedField } from "./draw.js";
import { button, el, field, tell } from "./dom.js";
import { loaded, picturePlace } from "./images.js";
import { Mask } from "./mask.js";
import { isShown, receives } from "./tabs.js";

/** The picture before and after, with a slider between them. */
function compare(before, after) {
  const above = el("img", { src: after, class: "after", alt: "after the edit" });
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before and after" });
  const cut = () => { above.style.clipPath = `inset(0 0 0 ${slider.value}%)`; };
  slider.addEventListener("input", cut);
  cut();
  return el("div", {}, el("div", { class: "compare" }, el("img", { src: before, alt: "before the edit" }), above), slider);
}

export function startEdit(panel) {
  const prompt = el("textarea", { required: true });
  const words = field("What it shall show", prompt);
  const model = el("select");
  const strength = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.7 });
  const byStrength = el("input", { type: "checkbox" });
  const chooses = el("label", { class: "row" }, byStrength, "redraw by strength, not by instruction");
  const strong = el("output", { textContent: "0.70" });
  const strengthRow = el("div", {}, field("Strength", strength), strong);
  const brush = el("input", { type: "range", min: 0.02, max: 0.4, step: 0.01, value: 0.12 });
  const clear = button("Clear the mask", () => mask?.clear());
  const masking = el("div", {}, field("Brush for the mask", brush), clear);
  const { seed, row } = seedField();
  const told = el("p", { class: "told", role: "status" });
  const easel = el("div", { class: "easel" });
  const results = el("div", { class: "results" });
  let source = "";
  let mask = null;
  let able = [];

  async function take(uri) {
    try {
      const image = await loaded(uri);
      source = uri;
      image.alt = "the picture to edit";
      mask = new Mask(image, () => Number(brush.value));
      easel.replaceChildren(image, ...(able.includes("mask") ? [mask.canvas, mask.cursor] : []));
      tell(told, `${image.naturalWidth} \u00d7 ${image.naturalHeight}`);
    } catch (error) {
      tell(told, error.message, { bad: true });
    }
  }

  function fit(chosen) {
    able = chosen?.capabilities ?? [];
    const both = able.includes("strength") && able.includes("instruction");
    chooses.hidden = !both;
    if (!both) byStrength.checked = able.includes("strength");
    strengthRow.hidden = !byStrength.checked;
    masking.hidden = !able.includes("mask");
    words.firstChild.textContent = byStrength.checked ? "What it shall show" : "What to change";
    if (mask) easel.replaceChildren(easel.firstChild, ...(able.includes("mask") ? [mask.canvas, mask.cursor] : []));
  }

  const place = picturePlace("A picture: choose it, drop it here, or paste it", {
    take, failed: (error) => tell(told, error.message, { bad: true }), listens: () => isShown("edit"),
  });
  const form = el("form", { "aria-label": "Edit" },
    place, told, words, field("Model", model), chooses, strengthRow, masking, row,
    el("p", { class: "actions" }, el("button", { class: "main", textContent: "Edit" })));
  byStrength.addEventListener("change", () => fit({ capabilities: able }));
  strength.addEventListener("input", () => { strong.textContent = Number(strength.value).toFixed(2); });
  offerModels(model, "edit", fit);
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (!source) return tell(told, "Choose a picture first.", { bad: true });
    const before = source;
    const body = { prompt: prompt.value, model: model.value, image: source };
    body.seed = seed.value === "" ? dice() : Number(seed.value);
    if (byStrength.checked) body.strength = Number(strength.value);
    if (able.includes("mask") && !mask.empty) body.mask = mask.uri();
    const { card } = draw("v1/images/edits", body, {
      words: prompt.value, extra: (picture) => compare(before, picture.uri),
    });
    results.prepend(card);
  });
  receives("edit", take);
  panel.append(el("div", { class: "work" }, form, el("div", { class: "results" }, easel, results)));
}
