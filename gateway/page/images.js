// Images from files, the clipboard and responses, as data URIs.
// Rules: dropped or pasted images go to the visible tab. A file dropped elsewhere does nothing; the
// browser would leave the page.

import { el } from "./dom.js";

const SENT_UNCHANGED = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 8 << 20; // bytes of a file that is sent unchanged
const LONGEST = 2048; // pixels of the longer side of a converted image
const UNREADABLE = "This browser can't open that file as an image.";

export const dataUri = (base64, form) => `data:image/${form};base64,${base64}`;

export function loaded(uri) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error(UNREADABLE));
    image.src = uri;
  });
}

function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("Can't read this file."));
    reader.readAsDataURL(file);
  });
}

/** *file* as a data URI that the API accepts: unchanged, or as a smaller JPEG. */
export async function imageOf(file) {
  if (!file.type.startsWith("image/")) throw new Error(UNREADABLE);
  const uri = await read(file);
  const image = await loaded(uri);
  if (SENT_UNCHANGED.includes(file.type) && file.size <= LARGEST) return uri;
  const share = Math.min(1, LONGEST / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = el("canvas", {
    width: Math.round(image.naturalWidth * share), height: Math.round(image.naturalHeight * share),
  });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

const places = []; // {place, listens, takeAll}
const listening = () => places.find(({ listens }) => listens());
const hasFiles = (dragged) => dragged.dataTransfer.types.includes("Files");
const light = (lit) => places.forEach(({ place }) => place.classList.toggle("over", place === lit));

document.addEventListener("dragover", (over) => {
  if (!hasFiles(over)) return;
  over.preventDefault();
  const to = listening();
  over.dataTransfer.dropEffect = to ? "copy" : "none";
  light(to?.place);
});
document.addEventListener("dragleave", (left) => { if (!left.relatedTarget) light(null); });
document.addEventListener("drop", (dropped) => {
  if (!hasFiles(dropped)) return;
  dropped.preventDefault();
  light(null);
  listening()?.takeAll(dropped.dataTransfer.files);
});
document.addEventListener("paste", (pasted) => {
  const files = pasted.clipboardData?.files;
  if (!files?.length || !listening()) return;
  pasted.preventDefault(); // a copied file also pastes its name as text
  listening().takeAll(files);
});

/** A drop zone for images: accepts chosen files, and dropped or pasted ones while *listens()* is true. */
export function imagePlace(text, { take, failed, listens }) {
  const input = el("input", { type: "file", accept: "image/*", multiple: true, class: "unseen" });
  const place = el("div", { class: "drop" }, el("label", {}, el("strong", { textContent: text }), "or drop or paste here", input));
  const takeAll = async (files) => {
    for (const file of [...files]) {
      try {
        await take(await imageOf(file));
      } catch (error) {
        failed(error);
      }
    }
  };
  input.addEventListener("change", () => takeAll(input.files).then(() => { input.value = ""; }));
  places.push({ place, listens, takeAll });
  return place;
}

export function download(uri, name) {
  el("a", { href: uri, download: name }).click();
}
