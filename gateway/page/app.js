// Starts all parts of the page.

import { key, keyEvents, setKey } from "./api.js";
import { startAsk } from "./ask.js";
import { byId, showNote } from "./dom.js";
import { startDraw } from "./draw.js";
import { startEdit } from "./edit.js";
import { live } from "./live.js";
import { startSystem } from "./system.js";
import { startTabs } from "./tabs.js";

function startKey() {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  const note = byId("key-note");
  const open = (message) => {
    if (dialog.open) return;
    showNote(note, message, { bad: true });
    input.value = key();
    dialog.showModal();
    input.select();
  };
  const save = () => {
    dialog.close();
    setKey(input.value.trim());
  };
  byId("key-button").addEventListener("click", () => open(""));
  byId("key-save").addEventListener("click", save);
  byId("key-cancel").addEventListener("click", () => dialog.close());
  input.addEventListener("keydown", (pressed) => { if (pressed.key === "Enter") save(); });
  // No error message before the first key is entered.
  keyEvents.addEventListener("key", ({ detail }) => open(key() ? detail : ""));
}

function startConnection() {
  const note = byId("connection");
  const show = (text, state = "") => { note.textContent = text; note.className = state; };
  live.addEventListener("up", () => show("connected", "up"));
  live.addEventListener("down", () => show(live.locked ? "API key required" : "not connected, retrying"));
  keyEvents.addEventListener("changed", () => { if (!live.up) show("connecting"); });
}

function startMemory() {
  const link = byId("memory");
  const [meter, text] = link.children;
  live.addEventListener("status", () => {
    const { models_loaded_gb: charged, budget_gb: budget } = live.status.memory;
    meter.max = budget || 1;
    meter.value = charged;
    text.textContent = `${charged.toFixed(1)} of ${budget.toFixed(1)} GB`;
    link.hidden = false;
  });
}

startKey();
startConnection();
startMemory();
startDraw(byId("draw"));
startEdit(byId("edit"));
startAsk(byId("ask"));
startSystem(byId("system"));
startTabs();
live.start();
