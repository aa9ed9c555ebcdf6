// Ask: a chat about pictures, streamed; and the tasks of analysis as buttons.

import { getJson, isAbort, postJson, stream, wanted } from "./api.js";
import { button, el, field, tell } from "./dom.js";
import { offerModels } from "./draw.js";
import { picturePlace } from "./images.js";
import { live } from "./live.js";
import { isShown, receives, shown } from "./tabs.js";

const picturePart = (url) => ({ type: "image_url", image_url: { url } });

export function startAsk(panel) {
  const model = el("select");
  const empty = el("p", { class: "empty", textContent: "Add a picture and ask about it; the answer appears here." });
  const talk = el("div", { class: "talk", role: "log", "aria-label": "The conversation" }, empty);
  const thumbs = el("div", { class: "thumbs" });
  const question = el("textarea", { placeholder: "What is in this picture?" });
  const told = el("p", { class: "told", role: "status" });
  const tasks = el("div", { class: "actions", role: "group", "aria-label": "Tasks" });
  const send = el("button", { class: "main", textContent: "Ask" });
  const stop = button("Stop", () => running?.abort(), { hidden: true });
  let pictures = []; // of the next question
  let said = []; // the messages so far
  let latest = ""; // the picture that a task is about
  let running = null;

  function attach(uri) {
    latest = uri;
    pictures.push(uri);
    const one = el("div", { class: "one" }, el("img", { src: uri, alt: "a picture to ask about" }));
    one.append(button("\u00d7", () => { pictures = pictures.filter((p) => p !== uri); one.remove(); latest = pictures.at(-1) ?? ""; }, { "aria-label": "Remove this picture" }));
    thumbs.append(one);
  }

  function turn(role, text, shownPictures = []) {
    const words = el("p", { textContent: text });
    const row = el("div", { class: "thumbs" }, ...shownPictures.map((src) => el("img", { src, alt: "a picture" })));
    const made = el("div", { class: `turn ${role}` }, ...(shownPictures.length ? [row] : []), words);
    empty.remove();
    talk.append(made);
    made.scrollIntoView({ block: "nearest" });
    return words;
  }

  /** Run *work* as the only one, told and stoppable. */
  async function alone(work) {
    if (running) return;
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    const began = Date.now();
    const seconds = () => ((Date.now() - began) / 1000).toFixed(1);
    const ticking = setInterval(() => tell(told, `${live.waitsFor(model.value) || "thinking"} (${seconds()} s)`), 500);
    try {
      await work(running.signal);
      tell(told, `${seconds()} s`);
    } catch (error) {
      if (isAbort(error)) tell(told, `stopped after ${seconds()} s`);
      else tell(told, error.message, { bad: true });
    } finally {
      clearInterval(ticking);
      running = null;
      send.disabled = false;
      stop.hidden = true;
      live.refresh();
    }
  }

  async function chat(signal) {
    const before = said; // of this chat: a new one has another
    const text = question.value.trim();
    const content = [...pictures.map(picturePart), ...(text ? [{ type: "text", text }] : [])];
    const asked = { role: "user", content };
    const asking = turn("user", text, pictures).parentElement;
    const taken = pictures;
    question.value = "";
    pictures = [];
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
      if (!words.textContent && before === said) {
        // Nothing was said: the question is there to be asked again.
        asking.remove();
        question.value ||= text;
        taken.forEach(attach);
      }
    }
  }

  async function analyze(task, signal) {
    if (!latest) throw new Error("Add a picture first.");
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
      button(id, () => alone((signal) => analyze(id, signal)), { title: description })));
  }
  const mayOffer = () => { if (!tasks.children.length) offerTasks().catch((error) => tell(told, error.message, { bad: true })); };

  const form = el("form", { "aria-label": "Ask" },
    picturePlace("Choose pictures", {
      take: attach, listens: () => isShown("ask"),
      failed: (error) => tell(told, error.message, { bad: true }),
    }),
    thumbs, tasks, field("Question", question), field("Model", model),
    el("p", { class: "actions" }, send, stop, button("New chat", () => {
      running?.abort();
      said = [];
      pictures = [];
      latest = "";
      talk.replaceChildren(empty);
      thumbs.replaceChildren();
    })), told);
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (question.value.trim() || pictures.length) alone(chat);
  });
  question.addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && !pressed.shiftKey && !pressed.isComposing) {
      pressed.preventDefault();
      form.requestSubmit();
    }
  });
  offerModels(model, "chat", () => {});
  shown.addEventListener("ask", mayOffer);
  wanted.addEventListener("changed", () => { if (isShown("ask")) mayOffer(); });
  receives("ask", attach);
  panel.append(el("div", { class: "work" }, form, talk));
}
