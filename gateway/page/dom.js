// Creates elements. Text is inserted as text, never as markup: nothing on this page parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element *tag* with *set*: properties, `class`, `on` (listeners) and attributes with a dash. */
export function el(tag, set = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) {
    if (name === "class") made.className = value;
    else if (name === "on") {
      for (const [kind, handler] of Object.entries(value)) made.addEventListener(kind, handler);
    } else if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (text, act, set = {}) =>
  el("button", { type: "button", textContent: text, on: { click: act }, ...set });

export const field = (text, input) => el("label", {}, text, input);

/** Replaces the options of *select* by [value, text] pairs; keeps the choice if it still exists. */
export function choices(select, pairs, preferred = select.value) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value, textContent: text })));
  const chosen = pairs.some(([value]) => value === preferred) ? preferred : pairs[0]?.[0];
  if (chosen !== undefined) select.value = chosen;
}

/** Shows *text* in *where*; *bad*: as an error. */
export function showNote(where, text, { bad = false } = {}) {
  where.textContent = text;
  where.className = bad ? "error" : "note";
}

/** Copies *text* to the clipboard and confirms on the button *pressed* for a moment. */
export async function copy(text, pressed) {
  const before = pressed.textContent;
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    // Browsers offer the clipboard only to pages on https and localhost.
    const area = el("textarea", { value: text, "aria-label": "To copy" });
    document.body.append(area);
    area.select();
    pressed.textContent = document.execCommand("copy") ? "Copied" : "Can't copy";
    area.remove();
    pressed.focus();
  }
  setTimeout(() => { pressed.textContent = before; }, 1500);
}
