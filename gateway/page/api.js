// Asks this gateway. The key stays in this browser and goes nowhere else.
// Rules: an error is shown as the API words it; addresses are relative, so that a path in front is fine.

import { readEvents } from "./sse.js";

const KEY = "vision-key";

export const wanted = new EventTarget(); // "key": the gateway wants one and says why, "changed": there is another

export const key = () => localStorage.getItem(KEY) ?? "";

export function setKey(value) {
  if (value) localStorage.setItem(KEY, value);
  else localStorage.removeItem(KEY);
  wanted.dispatchEvent(new Event("changed"));
}

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const isAbort = (error) => error?.name === "AbortError";

/** The answer to a request, when it is a good one; raises `ApiError`. */
export async function ask(path, { method = "GET", body, signal, headers = {} } = {}) {
  const sent = { ...headers };
  if (key()) sent.authorization = `Bearer ${key()}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, signal, headers: sent, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The gateway can't be reached.");
  }
  if (answer.ok) return answer;
  const message = await messageOf(answer);
  // The word of a key that has been replaced since is none on the new one.
  const ofNow = sent.authorization === (key() ? `Bearer ${key()}` : undefined);
  if (answer.status === 401 && ofNow) wanted.dispatchEvent(new CustomEvent("key", { detail: message }));
  throw new ApiError(message, answer.status);
}

async function messageOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The answer is ${answer.status}, without words.`;
  }
}

export const getJson = async (path, options) => (await ask(path, options)).json();
export const postJson = (path, body, signal) => getJson(path, { method: "POST", body, signal });

/** The events of a streamed answer; one that tells an error is raised. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, { method: "POST", body, signal });
  try {
    for await (const happened of readEvents(answer.body)) {
      if (happened.event === "error") throw new ApiError(JSON.parse(happened.data).error.message);
      yield happened;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The connection to the gateway broke off.");
    throw error;
  }
}
