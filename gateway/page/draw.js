// Draw: text to images.

import { draw } from "./generation.js";
import { button, choices, el, field } from "./dom.js";
import { live, modelsFor } from "./live.js";

const SIDES = [64, 128, 256, 512, 768, 1024, 1536];
export const dice = () => Math.floor(Math.random() * 2 ** 32);

/** Sizes of at most *most* pixels, square and 3:2. */
export function sizesWithin(most) {
  const sizes = SIDES.flatMap((side) => [[side, side], [Math.round(side * 1.5), side], [side, Math.round(side * 1.5)]]);
  return sizes
    .filter(([width, height]) => width * height <= most && width % 16 === 0 && height % 16 === 0)
    .map(([width, height]) => `${width}x${height}`);
}

/** The seed field, with a dice. Empty: a new seed each time. */
export function seedField() {
  const seed = el("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, placeholder: "random" });
  const roll = button("\u2684", () => { seed.value = dice(); }, { "aria-label": "Roll a seed" });
  return { seed, row: el("div", { class: "seed" }, field("Seed", seed), roll) };
}

/** Fills *select* with the models that support *what*; calls *changed* when another is chosen. */
export function offerModels(select, what, changed) {
  live.addEventListener("models", () => {
    const before = select.value;
    const able = modelsFor(what);
    choices(select, able.map(({ id, state }) => [id, state === "ready" ? `${id} (loaded)` : id]));
    if (select.value !== before) changed(able.find(({ id }) => id === select.value));
  });
  select.addEventListener("change", () => changed(live.models.find(({ id }) => id === select.value)));
}

export function startDraw(panel) {
  const prompt = el("textarea", { required: true, placeholder: "a red circle on a blue background" });
  const model = el("select");
  const size = el("select");
  const steps = el("input", { type: "number", min: 1, max: 100, placeholder: "auto" });
  const n = el("input", { type: "number", min: 1, max: 10, value: 1, required: true });
  const { seed, row } = seedField();
  const results = el("div", { class: "results" }, el("p", { class: "empty", textContent: "Images appear here." }));
  const form = el("form", { "aria-label": "Draw" },
    field("Describe the image", prompt),
    field("Model", model),
    el("div", { class: "pair" }, field("Size", size), field("Steps", steps)),
    el("div", { class: "pair" }, row, field("Images", n)),
    el("p", { class: "actions" }, el("button", { class: "main", textContent: "Draw" })));
  offerModels(model, "generate", (chosen) => {
    choices(size, [["", "auto"], ...sizesWithin(chosen?.max_pixels ?? 0).map((s) => [s, s.replace("x", " \u00d7 ")])]);
  });
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    const body = { prompt: prompt.value, model: model.value, n: Number(n.value) };
    body.seed = seed.value === "" ? dice() : Number(seed.value);
    if (size.value) body.size = size.value;
    if (steps.value) body.steps = Number(steps.value);
    results.querySelector(".empty")?.remove();
    const { card } = draw("v1/images/generations", body, { words: prompt.value });
    results.prepend(card);
    card.scrollIntoView({ block: "nearest" });
  });
  prompt.addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) form.requestSubmit();
  });
  panel.append(el("div", { class: "work" }, form, results));
}
