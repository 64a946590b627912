// What both pages need: the token, requests, the event stream, a few helpers for the document.
// Nothing here is kept beyond the life of the page: no storage, no cookies.

// Longest stream data without an end of line: an endless line must not fill the memory of a page that runs for months.
const BUFFER_CHARS_MAX = 1 << 20;
// The server says something at least every 10 s; after this long the connection is dead even if nobody closed it.
const SILENCE_MS = 25_000;
const BACKOFF_MS = [500, 1000, 2000, 3000];

const token = takeToken();

// The token leaves the address bar at once, so that it is neither seen nor bookmarked.
function takeToken() {
  const found = /(?:^#|&)token=([^&]+)/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1];
  }
}

function headers(more) {
  return token === null ? more : { ...more, Authorization: `Bearer ${token}` };
}

/** A request to the server: `{ status, data }`; status 0 when there was no answer. Never throws. */
export async function api(path, { body } = {}) {
  try {
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(5000),
    });
    const data = await response.json().catch(() => null);
    return { status: response.status, data };
  } catch {
    return { status: 0, data: null };
  }
}

/** A picture from the server: `{ bitmap, why }`, of which one is null. Over fetch, as an image cannot send a token. Never throws. */
export async function picture(path) {
  try {
    const response = await fetch(path, { headers: headers({}), cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) return { bitmap: null, why: String((await response.json()).error) };
    return { bitmap: await createImageBitmap(await response.blob()), why: null };
  } catch {
    return { bitmap: null, why: "no answer, or no picture" };
  }
}

/** Server-sent events (WHATWG HTML, 9.2.6) out of chunks of text; `emit({ type, data, id })` for each. */
export class SseParser {
  #rest = "";
  #type = "";
  #data = [];
  #id = null;

  constructor(emit) {
    this.emit = emit;
  }

  push(chunk) {
    this.#rest += chunk;
    if (this.#rest.length > BUFFER_CHARS_MAX) throw new Error("a line of the stream has no end");
    // A lone CR at the end may be half of a CR LF.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.emit({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
      this.#type = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}

/**
 * Reads a stream for as long as the page lives, and reconnects. Over fetch, as EventSource cannot send a token.
 *
 * - `onMessage({ type, data })`: `data` is parsed JSON; what is no JSON is skipped.
 * - `onStatus("open" | "lost", httpStatus)`: 0 when there was no answer.
 */
export function stream(path, { onMessage, onStatus = () => {} }) {
  let lastId = null;
  let attempt = 0;

  async function connect() {
    const abort = new AbortController();
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    let status = 0;
    try {
      alive();
      const resume = lastId === null ? {} : { "Last-Event-ID": lastId };
      const response = await fetch(path, {
        headers: headers({ Accept: "text/event-stream", ...resume }),
        cache: "no-store",
        signal: abort.signal,
      });
      status = response.status;
      if (!response.ok) throw new Error(`${path}: status ${status}`);
      onStatus("open", status);
      const parser = new SseParser(({ type, data, id }) => {
        // Opaque: which run and which event it names is the server's matter.
        if (id !== null) lastId = id;
        const value = parseJson(data);
        if (value !== undefined) onMessage({ type, data: value });
      });
      const text = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await text.read();
        if (done) break;
        // Only data counts as success: a server that accepts and closes at once is not asked twice a second.
        attempt = 0;
        alive();
        parser.push(value);
      }
    } catch {
      abort.abort();
    }
    clearTimeout(silence);
    onStatus("lost", status);
    const wait = BACKOFF_MS[Math.min(attempt, BACKOFF_MS.length - 1)];
    attempt += 1;
    setTimeout(connect, wait * (0.8 + 0.4 * Math.random()));
  }

  connect();
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const byId = (id) => document.getElementById(id);

/** An element; `props` are its properties, `data-` and `aria-` attributes by name. Text is always text, never markup. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** Writes only what changes: an untouched node costs no layout and is not announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** `value` if it is a finite number, otherwise null. */
export const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/** A list from what should be one. */
export const list = (value) => (Array.isArray(value) ? value : []);

/** Entries of what should be an object. */
export const entries = (value) => (value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : []);
