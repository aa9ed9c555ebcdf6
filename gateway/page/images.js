// Pictures from files, the clipboard and answers, as data URIs.

import { el } from "./dom.js";

const AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 8 << 20; // bytes of a file that is sent as it is
const LONGEST = 2048; // pixels of a side of one that isn't

export const dataUri = (base64, form) => `data:image/${form};base64,${base64}`;
export const base64Of = (uri) => uri.slice(uri.indexOf(",") + 1);

export function loaded(uri) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("This file is no picture that this browser can read."));
    image.src = uri;
  });
}

function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("This file can't be read."));
    reader.readAsDataURL(file);
  });
}

/** *file* as a data URI that the API takes: as it is, or made smaller and a JPEG. */
export async function pictureOf(file) {
  const uri = await read(file);
  const image = await loaded(uri);
  if (AS_THEY_ARE.includes(file.type) && file.size <= LARGEST) return uri;
  const share = Math.min(1, LONGEST / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = el("canvas", {
    width: Math.round(image.naturalWidth * share), height: Math.round(image.naturalHeight * share),
  });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

/** A place for pictures: files are chosen, dropped on it or pasted while *listens* says so. */
export function picturePlace(text, { take, failed, listens, several = false }) {
  const input = el("input", { type: "file", accept: "image/*", multiple: several });
  const place = el("div", { class: "drop" }, el("label", {}, text, input));
  const takeAll = async (files) => {
    const pictures = [...files].filter((file) => file.type.startsWith("image/"));
    try {
      for (const file of several ? pictures : pictures.slice(0, 1)) take(await pictureOf(file));
    } catch (error) {
      failed(error);
    }
  };
  input.addEventListener("change", () => takeAll(input.files).then(() => { input.value = ""; }));
  place.addEventListener("dragover", (over) => { over.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (dropped) => {
    dropped.preventDefault();
    place.classList.remove("over");
    takeAll(dropped.dataTransfer.files);
  });
  document.addEventListener("paste", (pasted) => {
    if (listens() && pasted.clipboardData?.files.length) takeAll(pasted.clipboardData.files);
  });
  return place;
}

export function download(uri, name) {
  el("a", { href: uri, download: name }).click();
}
