// Tabs: by mouse, arrow keys and address; and handing images from one tab to another.

import { byId } from "./dom.js";

const NAMES = ["draw", "edit", "ask", "system"];
const receivers = {};

export const shown = new EventTarget(); // "draw", "edit", ...: the tab was opened
export const isShown = (name) => !byId(name).hidden;

export function show(name) {
  for (const other of NAMES) {
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    byId(other).hidden = other !== name;
  }
  history.replaceState(null, "", `#${name}`);
  shown.dispatchEvent(new Event(name));
}

/** *take* receives the images handed to the tab *name*. */
export function receives(name, take) {
  receivers[name] = take;
}

export function handOver(name, image) {
  receivers[name](image);
  show(name);
  byId(`tab-${name}`).focus();
}

export function startTabs() {
  NAMES.forEach((name, at) => {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => show(name));
    tab.addEventListener("keydown", (pressed) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[pressed.key];
      const to = { Home: 0, End: NAMES.length - 1 }[pressed.key]
        ?? (step && (at + step + NAMES.length) % NAMES.length);
      if (to === undefined) return;
      pressed.preventDefault();
      show(NAMES[to]);
      byId(`tab-${NAMES[to]}`).focus();
    });
  });
  const follow = () => {
    const named = location.hash.slice(1);
    show(NAMES.includes(named) ? named : "draw");
  };
  addEventListener("hashchange", follow);
  follow();
}
