// Puts the page together.

import { key, setKey, wanted } from "./api.js";
import { startAsk } from "./ask.js";
import { byId, tell } from "./dom.js";
import { startDraw } from "./draw.js";
import { startEdit } from "./edit.js";
import { live } from "./live.js";
import { startSystem } from "./system.js";
import { startTabs } from "./tabs.js";

function startKey() {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  const told = byId("key-told");
  const open = (message) => {
    if (dialog.open) return;
    tell(told, message, { bad: true });
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
  // Who has given none yet has done nothing wrong.
  wanted.addEventListener("key", ({ detail }) => open(key() ? detail : ""));
}

function startConnection() {
  const told = byId("connection");
  const say = (text, state = "") => { told.textContent = text; told.className = state; };
  live.addEventListener("up", () => say("connected", "up"));
  live.addEventListener("down", () => say(live.locked ? "a key is wanted" : "not connected, trying again"));
  wanted.addEventListener("changed", () => { if (!live.up) say("connecting"); });
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
