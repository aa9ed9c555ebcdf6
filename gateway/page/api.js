// Requests to this gateway. The key stays in this browser and is sent nowhere else.
// Rules: errors are shown in the API's words. URLs are relative, so that a path prefix works.

import { readEvents } from "./sse.js";

const KEY = "vision-key";

// Dispatches "key" (the gateway requires a key; detail: why) and "changed" (the user changed the key).
export const keyEvents = new EventTarget();

export const key = () => localStorage.getItem(KEY) ?? "";

export function setKey(value) {
  if (value) localStorage.setItem(KEY, value);
  else localStorage.removeItem(KEY);
  keyEvents.dispatchEvent(new Event("changed"));
}

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const isAbort = (error) => error?.name === "AbortError";

/** The response to a request if it succeeds; throws `ApiError` otherwise. */
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
    throw new ApiError("Can't reach the gateway.");
  }
  if (answer.ok) return answer;
  const message = await messageOf(answer);
  // A refusal of an old key says nothing about the current one.
  const current = sent.authorization === (key() ? `Bearer ${key()}` : undefined);
  if (answer.status === 401 && current) keyEvents.dispatchEvent(new CustomEvent("key", { detail: message }));
  throw new ApiError(message, answer.status);
}

async function messageOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server returned status ${answer.status}.`;
  }
}

export const getJson = async (path, options) => (await ask(path, options)).json();
export const postJson = (path, body, signal) => getJson(path, { method: "POST", body, signal });

/** The events of a streamed response; an error event is thrown. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, { method: "POST", body, signal });
  try {
    for await (const received of readEvents(answer.body)) {
      if (received.event === "error") throw new ApiError(JSON.parse(received.data).error.message);
      yield received;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The connection to the gateway was lost.");
    throw error;
  }
}
