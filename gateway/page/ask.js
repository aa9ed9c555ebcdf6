// Ask: a streamed chat about images, with the analysis tasks as buttons.

import { getJson, isAbort, keyEvents, postJson, stream } from "./api.js";
import { button, el, field, showNote } from "./dom.js";
import { offerModels } from "./draw.js";
import { imagePlace } from "./images.js";
import { live } from "./live.js";
import { isShown, receives, shown } from "./tabs.js";

const imagePart = (url) => ({ type: "image_url", image_url: { url } });

export function startAsk(panel) {
  const model = el("select");
  const empty = el("p", { class: "empty", textContent: "Add an image and ask about it. Answers appear here." });
  const talk = el("div", { class: "talk", role: "log", "aria-label": "Conversation" }, empty);
  const thumbs = el("div", { class: "thumbs" });
  const question = el("textarea", { placeholder: "What is in this image?" });
  const note = el("p", { class: "note", role: "status" });
  const tasks = el("div", { class: "actions", role: "group", "aria-label": "Tasks" });
  const send = el("button", { class: "main", textContent: "Ask" });
  const stop = button("Stop", () => running?.abort(), { hidden: true });
  let images = []; // for the next question
  let messages = []; // so far
  let latest = ""; // the image that tasks analyze
  let running = null;

  function attach(uri) {
    latest = uri;
    images.push(uri);
    const one = el("div", { class: "one" }, el("img", { src: uri, alt: "image to ask about" }));
    one.append(button("\u00d7", () => { images = images.filter((p) => p !== uri); one.remove(); latest = images.at(-1) ?? ""; }, { "aria-label": "Remove this image" }));
    thumbs.append(one);
  }

  function turn(role, text, shownImages = []) {
    const words = el("p", { textContent: text });
    const row = el("div", { class: "thumbs" }, ...shownImages.map((src) => el("img", { src, alt: "an image" })));
    const made = el("div", { class: `turn ${role}` }, ...(shownImages.length ? [row] : []), words);
    empty.remove();
    talk.append(made);
    made.scrollIntoView({ block: "nearest" });
    return words;
  }

  /** Run *work* unless another is running; shows the time and can be stopped. */
  async function runAlone(work) {
    if (running) return;
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    const began = Date.now();
    const seconds = () => ((Date.now() - began) / 1000).toFixed(1);
    const ticking = setInterval(() => showNote(note, `${live.waitsFor(model.value) || "thinking"} (${seconds()} s)`), 500);
    try {
      await work(running.signal);
      showNote(note, `${seconds()} s`);
    } catch (error) {
      if (isAbort(error)) showNote(note, `stopped after ${seconds()} s`);
      else showNote(note, error.message, { bad: true });
    } finally {
      clearInterval(ticking);
      running = null;
      send.disabled = false;
      stop.hidden = true;
      live.refresh();
    }
  }

  async function chat(signal) {
    const before = messages; // of this chat: a new chat has another list
    const text = question.value.trim();
    const content = [...images.map(imagePart), ...(text ? [{ type: "text", text }] : [])];
    const asked = { role: "user", content };
    const asking = turn("user", text, images).parentElement;
    const taken = images;
    question.value = "";
    images = [];
    thumbs.replaceChildren();
    const words = turn("assistant", "");
    try {
      const body = { model: model.value, messages: [...before, asked], stream: true };
      for await (const { data } of stream("v1/chat/completions", body, signal)) {
        if (data !== undefined && data !== "[DONE]") words.textContent += JSON.parse(data).choices[0]?.delta.content ?? "";
      }
    } finally {
      if (words.textContent) before.push(asked, { role: "assistant", content: words.textContent });
      else words.parentElement.remove();
      if (!words.textContent && before === messages) {
        // No answer: put the question back, so that it can be asked again.
        asking.remove();
        question.value ||= text;
        taken.forEach(attach);
      }
    }
  }

  async function analyze(task, signal) {
    if (!latest) throw new Error("Add an image first.");
    const asking = turn("user", task, [latest]).parentElement;
    const words = turn("assistant", "");
    try {
      const body = { image: latest, task, model: model.value };
      words.textContent = (await postJson("v1/vision/analyze", body, signal)).result;
    } finally {
      if (!words.textContent) [asking, words.parentElement].forEach((one) => one.remove());
    }
  }

  async function offerTasks() {
    const { data } = await getJson("v1/vision/tasks");
    tasks.replaceChildren(...data.filter(({ prompt }) => prompt !== null).map(({ id, description }) =>
      button(id, () => runAlone((signal) => analyze(id, signal)), { title: description })));
  }
  const mayOffer = () => { if (!tasks.children.length) offerTasks().catch((error) => showNote(note, error.message, { bad: true })); };

  const form = el("form", { "aria-label": "Ask" },
    imagePlace("Choose images", {
      take: attach, listens: () => isShown("ask"),
      failed: (error) => showNote(note, error.message, { bad: true }),
    }),
    thumbs, tasks, field("Question", question), field("Model", model),
    el("p", { class: "actions" }, send, stop, button("New chat", () => {
      running?.abort();
      messages = [];
      images = [];
      latest = "";
      talk.replaceChildren(empty);
      thumbs.replaceChildren();
    })), note);
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (question.value.trim() || images.length) runAlone(chat);
  });
  question.addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && !pressed.shiftKey && !pressed.isComposing) {
      pressed.preventDefault();
      form.requestSubmit();
    }
  });
  offerModels(model, "chat", () => {});
  shown.addEventListener("ask", mayOffer);
  keyEvents.addEventListener("changed", () => { if (isShown("ask")) mayOffer(); });
  receives("ask", attach);
  panel.append(el("div", { class: "work" }, form, talk));
}
