// Server-sent events from a fetch, because EventSource can't send an Authorization header.

/** Yields {comment} or {event, data, id} for each comment and event in *body*, a byte stream. */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new Parser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    // Closes the connection when the reader stops.
    reader.cancel().catch(() => {});
  }
}

export class Parser {
  #left = "";
  #fields = {};

  /** The comments and events completed by *text*, the next piece, cut anywhere. */
  *feed(text) {
    const lines = (this.#left + text).split(/\r\n|\n|\r(?!$)/);
    this.#left = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#fields.data !== undefined) yield { event: "message", ...this.#fields };
        this.#fields = {};
      } else if (line.startsWith(":")) {
        yield { comment: line.slice(1).trim() };
      } else {
        this.#take(line);
      }
    }
  }

  #take(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data" && this.#fields.data !== undefined) this.#fields.data += `\n${value}`;
    else if (name === "data" || name === "event" || name === "id") this.#fields[name] = value;
  }
}
