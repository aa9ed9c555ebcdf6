// Puts the page together.

import { key, setKey, wanted } from "./api.js";
import { startAsk } from "./ask.js";
import { byId } from "./dom.js";
import { startDraw } from "./draw.js";
import { startEdit } from "./edit.js";
import { live } from "./live.js";
import { startSystem } from "./system.js";
import { startTabs } from "./tabs.js";

function startKey() {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  const open = () => {
    if (dialog.open) return;
    input.value = key();
    dialog.showModal();
    input.select();
  };
  const save = () => {
    dialog.close();
    setKey(input.value.trim());
    live.refresh();
  };
  byId("key-button").addEventListener("click", open);
  byId("key-save").addEventListener("click", save);
  byId("key-cancel").addEventListener("click", () => dialog.close());
  input.addEventListener("keydown", (pressed) => { if (pressed.key === "Enter") save(); });
  wanted.addEventListener("key", open);
}

function startConnection() {
  const told = byId("connection");
  live.addEventListener("up", () => { told.textContent = "connected"; told.className = "up"; });
  live.addEventListener("down", () => { told.textContent = "not connected, trying again"; told.className = ""; });
}

startKey();
startConnection();
startDraw(byId("draw"));
startEdit(byId("edit"));
startAsk(byId("ask"));
startSystem(byId("system"));
startTabs();
live.start();
