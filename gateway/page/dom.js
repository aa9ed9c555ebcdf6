// Makes elements. Text goes in as text, never as markup: nothing on this page parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element *tag* with *set*: properties, `class`, `on` (listeners) and attributes with a dash. */
export function el(tag, set = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) {
    if (name === "class") made.className = value;
    else if (name === "on") {
      for (const [kind, heard] of Object.entries(value)) made.addEventListener(kind, heard);
    } else if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (text, act, set = {}) =>
  el("button", { type: "button", textContent: text, on: { click: act }, ...set });

export const field = (text, input) => el("label", {}, text, input);

/** Fills *select* anew with [value, text] pairs, and keeps its choice where that is still there. */
export function choices(select, pairs, preferred = select.value) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value, textContent: text })));
  const wanted = pairs.some(([value]) => value === preferred) ? preferred : pairs[0]?.[0];
  if (wanted !== undefined) select.value = wanted;
}

/** Says *text* in the place of what *where* said, as an error if it is one. */
export function tell(where, text, { bad = false } = {}) {
  where.textContent = text;
  where.className = bad ? "error" : "told";
}

/** Writes *text* to the clipboard and says so on *pressed* for a moment. */
export async function copy(text, pressed) {
  const before = pressed.textContent;
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    // Browsers give the clipboard to pages of https and localhost only.
    const area = el("textarea", { value: text, "aria-label": "To copy" });
    document.body.append(area);
    area.select();
    pressed.textContent = document.execCommand("copy") ? "Copied" : "Can't copy";
    area.remove();
    pressed.focus();
  }
  setTimeout(() => { pressed.textContent = before; }, 1500);
}
