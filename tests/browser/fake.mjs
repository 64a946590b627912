// A stand-in for the web server of `attendant run`: the same addresses and answers, with a scripted demo in place of devices and
// models, so that the pages can be written and tested without a build. No dependencies.
//
//   node fake.mjs [PORT]     serves the pages of this tree and plays the demo (http://127.0.0.1:8080)

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const ASSETS = join(ROOT, "src/emit/web/assets");
const RING_EVENTS = 256;
const BODY_BYTES_MAX = 4096;
const TELEMETRY_MS = 250;
const COMMENT_MS = 10_000;
const MELS = 40;

const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-store",
};
const TYPES = { ".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml" };

/** The notice of docs/config.md. */
const NOTICE = {
  en: "A camera and a microphone are on. Nothing leaves this device.",
  zh: "摄像头和麦克风已开启。任何内容都不会离开此设备。",
};

/** One grey pixel, for a camera's picture. */
const PICTURE = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==", "base64");

const CLASSES = [...Array(10).keys()].map((n) => `desk_${n}`).concat("none");

/** The catalogue of the shipped bundle. Reads only the shape in which that file is written: one table a line. */
function catalogue() {
  const found = { lang: "en", languages: [], classes: [], rules: {}, intents: {} };
  const templates = {};
  const names = [];
  let table = "";
  for (const line of readFileSync(join(ROOT, "models/kiosk/advice.toml"), "utf8").split("\n")) {
    const head = /^\[(.+)\]/.exec(line)?.[1];
    if (head) {
      table = head;
      if (table.startsWith("class.")) found.classes.push({ class: table.slice(6) });
      continue;
    }
    const [, key, value] = /^(\w+) = (.+)$/.exec(line) ?? [];
    if (!key) continue;
    if (key === "languages") found.languages = JSON.parse(value);
    else {
      const texts = Object.fromEntries([...value.matchAll(/(\w+) = ("(?:[^"\\]|\\.)*")/g)].map((m) => [m[1], JSON.parse(m[2])]));
      if (table === "rules") found.rules[key] = texts;
      else if (table === "intent") templates[key] = texts;
      else if (table.startsWith("class.")) {
        if (key === "name") names.push(texts);
        else found.classes.at(-1)[key === "text" ? "texts" : key] = texts;
      }
    }
  }
  const { intent: frame, ...rules } = found.rules;
  found.rules = rules;
  const ids = Object.keys(templates);
  // Fifteen intents a desk, in the order of the file, framed as the visitor reads them.
  ids.forEach((id, i) => {
    const at = Math.floor(i / 15);
    const texts = found.languages.map((l) => [l, frame[l].replace("{name}", names[at][l]).replace("{text}", templates[id][l])]);
    found.intents[id] = { class: found.classes[at].class, texts: Object.fromEntries(texts) };
  });
  return found;
}

export class Fake {
  catalogue = catalogue();
  posts = [];
  seq = 0;
  /** Names the run in the ids of events; another one is another run of the program. */
  run = "a1";
  /** Answers of POST: a status other than 202 refuses. */
  textStatus = 202;
  choiceStatus = 202;
  /** Whether a request or a choice is answered by a decision. */
  answers = true;
  ready = true;
  /** Whether the camera's pictures can be seen, and why there is none if there is none. */
  preview = false;
  noPicture = null;
  previews = 0;
  token = null;
  lang = "en";
  visit = null;
  bundle = "kiosk@1.0.0";
  /** What visitors are told of being seen and heard; undefined: the configuration has no notice. */
  notice = NOTICE;
  sensors = { camera: true, mic: true };
  modalities = {
    card: { state: "ok", reason: "", age_ms: 60, source: "camera" },
    speech: { state: "ok", reason: "", age_ms: 140, source: "mic" },
    request: { state: "absent", reason: "nothing typed yet", age_ms: null, source: "text" },
  };
  /** What the fused distribution moves to. */
  towards = { none: 0.97 };
  /** Merged into every frame, to leave out or break fields. */
  telemetryPatch = {};

  #fused = Object.fromEntries(CLASSES.map((c) => [c, c === "none" ? 1 : 0]));
  #weights = { card: 0, speech: 0, request: 0 };
  #ring = [];
  #streams = new Set();
  #timers = [];
  #startedAt = Date.now();
  #server = null;

  async start(port = 0) {
    this.#server = createServer((request, response) => this.#serve(request, response));
    await new Promise((done) => this.#server.listen(port, "127.0.0.1", done));
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
    this.#timers.push(setInterval(() => this.#telemetry(), TELEMETRY_MS));
    this.#timers.push(setInterval(() => this.#write(": still here\n\n"), COMMENT_MS));
    return this;
  }

  /** Another run of the program: it knows nothing of the one before. */
  restart() {
    this.run = `${this.run}x`;
    this.seq = 0;
    this.#ring = [];
  }

  /** Closes every connection and refuses new ones; `start(port)` with the same port takes up again. */
  async stop() {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    const closed = new Promise((done) => this.#server.close(done));
    this.#server.closeAllConnections();
    await closed;
  }

  /** Sends an event; fields that are left out are filled in. */
  emit(fields) {
    const event = {
      v: 1,
      seq: this.seq,
      t_us: (Date.now() - this.#startedAt) * 1000,
      ...fields,
      modalities: fields.modalities ?? this.views({}),
      bundle: this.bundle,
      board: "host",
    };
    const frame = { id: this.seq, text: `id: ${this.run}-${this.seq}\ndata: ${JSON.stringify(event)}\n\n` };
    this.seq += 1;
    this.#ring.push(frame);
    if (this.#ring.length > RING_EVENTS) this.#ring.shift();
    this.#write(frame.text, "/api/events");
  }

  /** Entries of an event: the state of each modality, and its weight if it took part. */
  views(weights) {
    return Object.fromEntries(
      Object.entries(this.modalities).map(([name, m]) => {
        const weight = weights[name] ?? 0;
        return [name, { weight, contribution: +(weight * 0.6).toFixed(4), age_ms: m.age_ms, state: m.state }];
      }),
    );
  }

  setModality(name, state, reason = "") {
    Object.assign(this.modalities[name], { state, reason, age_ms: state === "ok" ? 80 : state === "stale" ? 1900 : null });
    this.emit({ kind: "modality", modality: name, state, reason });
  }

  advice(id) {
    const texts = this.catalogue.intents[id]?.texts ?? this.catalogue.rules[id] ?? this.catalogue.classes.find((c) => c.class === id)?.texts;
    return { id, lang: this.lang, text: texts[this.lang] };
  }

  enter(label, { intent, weights = { card: 0.31, speech: 0.69 }, p = 0.94, advice, by } = {}) {
    advice ??= this.advice(intent ?? label);
    this.towards = { [label]: p, none: 1 - p };
    this.#weights = { card: 0, speech: 0, request: 0, ...weights };
    const extra = { ...(by && { by }), ...(intent && { intent }) };
    this.visit = { active: true, class: label, p, state: "enter", ...extra, advice, choices: [] };
    this.emit({ kind: "decision", class: label, p, state: "enter", ...extra, advice, modalities: this.views(weights) });
  }

  exit(label) {
    this.towards = { none: 0.97 };
    this.#weights = { card: 0, speech: 0, request: 0 };
    this.visit = null;
    this.emit({ kind: "decision", class: label, p: 0.2, state: "exit", advice: this.advice("exit") });
  }

  ask(...labels) {
    const ps = labels.length === 2 ? [0.48, 0.41] : [0.34, 0.31, 0.27];
    const choices = labels.map((label, i) => ({ class: label, p: ps[i] }));
    const shorts = labels.map((label) => this.catalogue.classes.find((c) => c.class === label).short[this.lang]);
    const rule = this.catalogue.rules[labels.length === 2 ? "ask" : "ask_three"][this.lang];
    const advice = { id: "ask", lang: this.lang, text: rule.replace(/\{([abc])\}/g, (_, at) => shorts["abc".indexOf(at)]) };
    this.towards = Object.fromEntries(choices.map((c) => [c.class, c.p]));
    this.#weights = { card: 0.44, speech: 0.56, request: 0 };
    this.visit = { active: true, class: labels[0], p: ps[0], state: "ask", advice, choices };
    this.emit({ kind: "decision", class: labels[0], p: ps[0], state: "ask", advice, choices, modalities: this.views(this.#weights) });
  }

  escalate() {
    const advice = this.advice("escalate");
    this.visit = { active: true, class: "none", p: 0.4, state: "escalate", advice, choices: [] };
    this.emit({ kind: "decision", class: "none", p: 0.4, state: "escalate", advice });
  }

  loseSensors() {
    this.sensors = { camera: false, mic: false };
    this.setModality("card", "failed", "camera: no frame for 2000 ms; reopening (attempt 3)");
    this.setModality("speech", "failed", "mic: device is gone");
  }

  /** Everything as it was at the start; nobody is there. */
  calm() {
    Object.assign(this, { textStatus: 202, choiceStatus: 202, answers: true, ready: true, lang: "en", visit: null, preview: false, noPicture: null, previews: 0, notice: NOTICE, bundle: "kiosk@1.0.0" });
    Object.assign(this, { telemetryPatch: {}, towards: { none: 0.97 }, sensors: { camera: true, mic: true } });
    this.#weights = { card: 0, speech: 0, request: 0 };
    for (const c of CLASSES) this.#fused[c] = c === "none" ? 1 : 0;
    Object.assign(this.modalities.card, { state: "ok", reason: "", age_ms: 60 });
    Object.assign(this.modalities.speech, { state: "ok", reason: "", age_ms: 140 });
    Object.assign(this.modalities.request, { state: "absent", reason: "nothing typed yet", age_ms: null });
    this.posts.length = 0;
  }

  state() {
    return {
      v: 1,
      bundle: this.bundle,
      board: "host",
      lang: this.lang,
      uptime_s: (Date.now() - this.#startedAt) / 1000,
      ready: this.ready,
      preview: this.preview,
      tier: "avx2",
      fallback: this.isFallback(),
      sensors: this.#devices(),
      modalities: this.modalities,
      visit: this.visit,
      thresholds: { enter: 0.7, exit: 0.4 },
      seq: this.ready ? this.seq - 1 : null,
      notice: this.notice,
    };
  }

  /** Whether any desk may be chosen: nothing that watches or listens works. */
  isFallback() {
    return ["card", "speech"].every((name) => this.modalities[name].state !== "ok");
  }

  #devices() {
    return Object.entries(this.sensors).map(([name, open]) => ({ name, open }));
  }

  #telemetry() {
    const rest = 1 - Object.values(this.towards).reduce((a, b) => a + b, 0);
    for (const c of CLASSES) {
      const goal = this.towards[c] ?? Math.max(0, rest) / CLASSES.length;
      this.#fused[c] += (goal - this.#fused[c]) * 0.7 + (Math.random() - 0.5) * 0.006;
      this.#fused[c] = Math.min(1, Math.max(0, this.#fused[c]));
    }
    const isVoice = this.#weights.speech > 0 && this.modalities.speech.state === "ok";
    const t = Date.now() / 1000;
    const mel = [...Array(MELS).keys()].map((band) => {
      const floor = -0.72 + 0.1 * Math.random() - band * 0.003;
      const formant = Math.exp(-(((band - 9 - 4 * Math.sin(t * 2.1)) / 3) ** 2)) + 0.7 * Math.exp(-(((band - 24 - 5 * Math.sin(t * 1.3)) / 4) ** 2));
      return Math.max(-1, Math.min(1, floor + (isVoice ? 1.4 * formant * (0.6 + 0.4 * Math.random()) : 0.15 * formant)));
    });
    const modalities = Object.fromEntries(
      Object.entries(this.modalities).map(([name, m]) => {
        const weight = this.#weights[name] * (0.9 + 0.2 * Math.random());
        return [name, { weight, contribution: weight * 0.6 - 0.03 * Math.random(), age_ms: m.age_ms, state: m.state }];
      }),
    );
    const us = (p50, p99) => ({ p50_us: Math.round(p50 * (0.97 + 0.06 * Math.random())), p99_us: Math.round(p99 * (0.97 + 0.06 * Math.random())) });
    const frame = {
      t_us: (Date.now() - this.#startedAt) * 1000,
      fused: CLASSES.map((c) => +this.#fused[c].toFixed(4)),
      classes: CLASSES,
      modalities,
      sensors: this.#devices(),
      mel: this.modalities.speech.state === "failed" ? null : mel,
      queues: { camera: { dropped: 3 }, mic: { dropped: 0 }, text: { dropped: 0 } },
      stages: { preprocess: us(410, 900), encode: us(2900, 5200), fuse: us(120, 260), decide: us(9, 30), step: us(3500, 6600) },
      temperature_c: 51.5,
      rss_bytes: 48_300_000,
      clients: this.#streams.size,
      ...this.telemetryPatch,
    };
    this.#write(`data: ${JSON.stringify(frame)}\n\n`, "/api/telemetry");
  }

  #write(text, path) {
    for (const s of this.#streams) if (!path || s.path === path) s.response.write(text);
  }

  async #serve(request, response) {
    const { pathname: path } = new URL(request.url, "http://fake");
    const json = (status, value) => {
      response.writeHead(status, { ...HEADERS, "Content-Type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (path.startsWith("/api/") && this.token && request.headers.authorization !== `Bearer ${this.token}`) {
      return json(401, { error: "this address needs the token" });
    }
    if (request.method === "POST") return this.#post(path, request, json);
    if (path === "/api/state") return json(200, this.state());
    if (path === "/api/catalogue") return json(200, this.catalogue);
    if (path === "/api/events" || path === "/api/telemetry") return this.#stream(path, request, response);
    if (path === "/api/preview.jpg") return this.#picture(response, json);
    const name = { "/": "index.html", "/live": "live.html" }[path] ?? /^\/assets\/([\w.-]+)$/.exec(path)?.[1];
    try {
      const body = readFileSync(join(ASSETS, name));
      response.writeHead(200, { ...HEADERS, "Content-Type": TYPES[extname(name)] ?? "application/octet-stream" });
      response.end(body);
    } catch {
      json(404, { error: `there is no ${path}` });
    }
  }

  #picture(response, json) {
    if (!this.preview) return json(404, { error: "there is no preview" });
    if (this.noPicture) return json(503, { error: this.noPicture });
    this.previews += 1;
    response.writeHead(200, { ...HEADERS, "Content-Type": "image/png" });
    response.end(PICTURE);
  }

  #stream(path, request, response) {
    response.writeHead(200, { ...HEADERS, "Content-Type": "text/event-stream" });
    response.write(": hello\n\n");
    const asked = request.headers["last-event-id"];
    if (path === "/api/events" && asked !== undefined) {
      const [run, seq] = asked.split("-");
      const next = run === this.run ? Number(seq) + 1 : 0;
      const missed = Math.max(0, (this.#ring[0]?.id ?? 0) - next);
      if (missed > 0 || run !== this.run) response.write(`event: gap\ndata: ${JSON.stringify({ missed })}\n\n`);
      for (const frame of this.#ring) if (frame.id >= next) response.write(frame.text);
    }
    const entry = { path, response };
    this.#streams.add(entry);
    response.on("close", () => this.#streams.delete(entry));
  }

  async #post(path, request, json) {
    let text = "";
    for await (const chunk of request) {
      text += chunk;
      if (text.length > BODY_BYTES_MAX) return json(413, { error: "the body is too long" });
    }
    if (request.headers["content-type"] !== "application/json") return json(415, { error: "expected application/json" });
    const body = JSON.parse(text);
    this.posts.push({ path, body });
    if (path === "/api/text") {
      if (this.textStatus !== 202) return json(this.textStatus, { error: "the request was not taken" });
      json(202, { accepted: true });
      if (this.answers) setTimeout(() => this.#answer(body.text), 400);
    } else if (path === "/api/choice") {
      const isOffered = this.visit?.state === "ask" && this.visit.choices.some((c) => c.class === body.class);
      const status = this.choiceStatus === 202 && !isOffered && !this.isFallback() ? 409 : this.choiceStatus;
      if (status !== 202) return json(status, { error: "no open question offers that class" });
      json(202, { accepted: true });
      if (this.answers) setTimeout(() => this.enter(body.class, { weights: {}, p: 1, by: "choice" }), 150);
    } else json(404, { error: `there is no ${path}` });
  }

  #answer(text) {
    const weights = { card: 0, speech: 0, request: 1 };
    this.setModality("request", "ok");
    if (/lost.*card|card.*lost/i.test(text)) this.enter("desk_1", { intent: "report_lost_card", weights });
    else if (/bag|luggage|行李/i.test(text)) this.enter("desk_5", { intent: "lost_luggage", weights });
    else this.enter("desk_6", { weights });
  }
}

/** A visit after a visit, for ever; `at` waits. */
export async function demo(fake, at = (ms) => new Promise((done) => setTimeout(done, ms))) {
  fake.emit({ kind: "start" });
  for (;;) {
    await at(4000);
    fake.towards = { desk_7: 0.6, none: 0.3 };
    await at(1500);
    fake.enter("desk_7", { weights: { card: 0.62, speech: 0.38 } });
    await at(7000);
    fake.exit("desk_7");
    await at(6000);
    fake.ask("desk_3", "desk_8");
    await at(7000);
    fake.enter("desk_3", { weights: { speech: 1 }, p: 0.88 });
    await at(6000);
    fake.exit("desk_3");
    await at(5000);
    fake.emit({ kind: "notice", source: "mic", notice: "clipped", reason: "the signal is at full scale in 3 % of the last second" });
    fake.setModality("card", "stale", "no frame for 1500 ms");
    await at(3000);
    fake.setModality("card", "ok", "frames again");
    fake.escalate();
    await at(9000);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const fake = await new Fake().start(Number(process.argv[2] ?? 8080));
  console.log(`${fake.url} and ${fake.url}/live`);
  demo(fake);
}
