// The end of a worker's log, followed on request.

import { ask, isAbort } from "./api.js";
import { button, choices, el, field, showNote } from "./dom.js";
import { live } from "./live.js";
import { readEvents } from "./sse.js";

const SHOWN = 500; // lines

export function logTail() {
  const alias = el("select");
  const lines = el("pre", { tabIndex: 0, role: "region", "aria-label": "Log" });
  const note = el("p", { class: "note", role: "status" });
  let following = null;

  const follow = button("Follow", () => (following ? following.abort() : run()));
  async function run() {
    following = new AbortController();
    follow.textContent = "Stop following";
    lines.textContent = "";
    showNote(note, "");
    try {
      const answer = await ask(`v1/system/logs/${encodeURIComponent(alias.value)}?follow=true&lines=50`, { signal: following.signal });
      for await (const { event, data } of readEvents(answer.body)) {
        if (event === "error") throw new Error(JSON.parse(data).error.message);
        if (data === undefined) continue;
        const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
        lines.append(`${JSON.parse(data)}\n`);
        while (lines.childNodes.length > SHOWN) lines.firstChild.remove();
        if (atEnd) lines.scrollTop = lines.scrollHeight;
      }
      showNote(note, "The log stream ended.");
    } catch (error) {
      if (!isAbort(error)) showNote(note, error.message, { bad: true });
    } finally {
      following = null;
      follow.textContent = "Follow";
    }
  }

  live.addEventListener("models", () => choices(alias, live.models.map(({ id }) => [id, id])));
  alias.addEventListener("change", () => {
    if (!following) return;
    following.abort();
    setTimeout(run, 0); // after the old stream has ended
  });
  return el("section", { class: "card", "aria-label": "Logs" }, el("h2", { textContent: "Log" }),
    el("div", { class: "beside" }, field("Worker", alias), follow), note, lines);
}
