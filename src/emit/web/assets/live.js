// The integrator's page: shows what the server says, asks for nothing else. Whatever a frame lacks is "not available".

import { api, byId, el, entries, list, number, picture, setText, stream } from "./common.js";

const HISTORY_S = 60;
const DECISIONS_MAX = 20;
const LOG_MAX = 100;
const STATE_MS = 2000;
// The server makes no more than two a second.
const PREVIEW_MS = 500;
const NOT_AVAILABLE = "not available";

const device = { bundle: null, state: {}, names: new Map(), reasons: new Map(), decided: null, frame: null };
const link = { events: "connecting", telemetry: "connecting" };
/** By modality: what the last minute's frames said, oldest first. */
const history = new Map();

const fixed = (value) => number(value)?.toFixed(2) ?? "–";
const ms = (us) => (number(us) === null ? "–" : (us / 1000).toFixed(us < 10_000 ? 2 : 1));
const seconds = (us) => (number(us) === null ? "–" : (us / 1e6).toFixed(1));
const age = (value) => (number(value) === null ? "–" : value < 10_000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(0)} s`);

function uptime(s) {
  if (number(s) === null) return NOT_AVAILABLE;
  const [d, h, m] = [Math.floor(s / 86_400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${Math.floor(s % 60)} s` : `${Math.floor(s)} s`;
}

// Header

function drawFacts() {
  const { state, frame } = device;
  const rss = number(frame?.rss_bytes);
  const temperature = number(frame?.temperature_c);
  const open = list(state.sensors).filter((s) => s?.open).map((s) => String(s.name));
  const facts = [
    ["bundle", state.bundle],
    ["board", state.board],
    ["kernels", state.tier],
    ["open", state.sensors ? open.join(", ") || "no device" : null],
    ["up", uptime(state.uptime_s)],
    ["temperature", temperature === null ? null : `${temperature.toFixed(1)} °C`],
    ["memory", rss === null ? null : `${(rss / 1e6).toFixed(1)} MB`],
    ["clients", number(frame?.clients)],
    ["events", link.events],
    ["telemetry", link.telemetry],
  ];
  const box = byId("facts");
  if (!box.children.length) box.replaceChildren(...facts.map(([name]) => el("div", {}, el("dt", {}, name), el("dd"))));
  facts.forEach(([name, value], i) => {
    const dd = box.children[i].lastChild;
    setText(dd, String(value ?? NOT_AVAILABLE));
    if (name in link) dd.dataset.state = value === "open" ? "open" : "lost";
  });
}

// Modalities

function drawModalities() {
  const box = byId("modalities");
  const views = entries(device.frame?.modalities ?? device.state.modalities);
  if (!views.length) return box.replaceChildren(el("p", { className: "none" }, NOT_AVAILABLE));
  const names = views.map(([name]) => name).join();
  if (box.dataset.names !== names) {
    box.dataset.names = names;
    box.replaceChildren(...views.map(([name]) => modalityRow(name)));
  }
  views.forEach(([name, view], i) => {
    const row = box.children[i];
    const known = device.state.modalities?.[name] ?? {};
    const state = String(view?.state ?? known.state ?? "absent");
    const pill = row.querySelector(".state");
    pill.dataset.state = state;
    setText(pill, state);
    setText(row.querySelector("h3 span"), String(known.source ?? ""));
    setText(row.querySelector("p"), String(device.reasons.get(name) || known.reason || ""));
    const [ageNode, weight, contribution] = row.querySelectorAll(".numbers b");
    setText(ageNode, age(view?.age_ms ?? known.age_ms));
    setText(weight, fixed(view?.weight));
    setText(contribution, fixed(view?.contribution));
    drawSparkline(row.querySelector("canvas"), history.get(name) ?? []);
  });
}

function modalityRow(name) {
  const figure = (label) => el("span", {}, label, el("b"));
  return el(
    "article",
    { className: "modality" },
    el("h3", {}, name, el("span")),
    el("span", { className: "state" }),
    el("p"),
    el("div", { className: "numbers" }, figure("age"), figure("weight"), figure("contribution")),
    el("canvas", { role: "img", "aria-label": `Weight and contribution of ${name} in the last minute` }),
  );
}

/** A canvas at the panel's resolution; its context, and its size in device pixels. */
function canvasOf(canvas) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  return { c: canvas.getContext("2d"), w, h, ratio };
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawSparkline(canvas, points) {
  const { c, w, h, ratio } = canvasOf(canvas);
  c.clearRect(0, 0, w, h);
  // From -0.25, as a contribution can be negative, to 1.
  const y = (value) => h - ((value + 0.25) / 1.25) * h;
  const end = points.at(-1)?.t ?? 0;
  const x = (t) => w - ((end - t) / (HISTORY_S * 1e6)) * w;
  c.strokeStyle = css("--line");
  c.lineWidth = ratio;
  c.strokeRect(-1, Math.round(y(0)) + 0.5, w + 2, h);
  for (const key of ["weight", "contribution"]) {
    c.strokeStyle = css(`--${key}`);
    c.lineWidth = 1.5 * ratio;
    c.beginPath();
    points.forEach((point, i) => {
      const at = [x(point.t), y(Math.max(-0.25, Math.min(1, point[key])))];
      if (i === 0) c.moveTo(...at);
      else c.lineTo(...at);
    });
    c.stroke();
  }
}

function remember(frame) {
  const t = number(frame.t_us);
  if (t === null) return;
  for (const [name, view] of entries(frame.modalities)) {
    let points = history.get(name) ?? [];
    // Time that runs backwards is another run of the program.
    if (points.length && t < points.at(-1).t) points = [];
    points.push({ t, weight: number(view?.weight) ?? 0, contribution: number(view?.contribution) ?? 0 });
    while (t - points[0].t > HISTORY_S * 1e6 || points.length > HISTORY_S * 10) points.shift();
    history.set(name, points);
  }
}

// Spectrogram

/** Dark to bright, evenly perceived: five stops of the magma map. */
const STOPS = [[4, 8, 20], [60, 20, 90], [165, 45, 110], [245, 120, 80], [252, 235, 180]];

function colour(share) {
  const at = Math.max(0, Math.min(0.9999, share)) * (STOPS.length - 1);
  const [a, b] = [STOPS[Math.floor(at)], STOPS[Math.floor(at) + 1]];
  return `rgb(${a.map((from, i) => Math.round(from + (b[i] - from) * (at % 1))).join()})`;
}

/** Weakest and strongest value that the colours stand for: features have the scale that their bundle gives them. */
let melRange = null;

/** Where `value` lies in the range, from 0 to 1. The range takes in a new extreme at once and forgets it within a minute. */
function melScale(mel) {
  const values = mel.map(number).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [below, above] = melRange ?? [low, high];
  melRange = [Math.min(low, below + (low - below) / 200), Math.max(high, above + (high - above) / 200)];
  const span = Math.max(melRange[1] - melRange[0], 0.5);
  return (value) => (value - melRange[0]) / span;
}

function drawMel(mel) {
  const hasMel = list(mel).some((value) => number(value) !== null);
  byId("mel-none").hidden = hasMel;
  if (!hasMel) return;
  const { c, w, h } = canvasOf(byId("mel"));
  const column = Math.max(1, Math.round(w / (HISTORY_S * 4)));
  const scaled = melScale(mel);
  c.drawImage(byId("mel"), -column, 0);
  mel.forEach((value, band) => {
    const [top, bottom] = [h - ((band + 1) / mel.length) * h, h - (band / mel.length) * h];
    c.fillStyle = colour(number(value) === null ? 0 : scaled(value));
    c.fillRect(w - column, Math.floor(top), column, Math.ceil(bottom - top) + 1);
  });
}

// Distribution

function drawFused() {
  const box = byId("fused");
  const classes = list(device.frame?.classes).map(String);
  const fused = list(device.frame?.fused);
  if (!classes.length || !fused.length) {
    delete box.dataset.classes;
    return box.replaceChildren(el("p", { className: "none" }, NOT_AVAILABLE));
  }
  const enter = number(device.state.thresholds?.enter);
  const exit = number(device.state.thresholds?.exit);
  const wanted = JSON.stringify([classes, enter, exit, device.names.size]);
  if (box.dataset.classes !== wanted) {
    box.dataset.classes = wanted;
    box.replaceChildren(...classes.map((label) => classRow(label, enter, exit)));
    const key = (name, value) => (value === null ? [] : [el("i", { className: name }), `${name} ${value}`]);
    byId("threshold-key").replaceChildren(...key("exit", exit), ...key("enter", enter));
  }
  classes.forEach((label, i) => {
    const row = box.children[i];
    const p = number(fused[i]);
    row.querySelector("b").style.width = `${Math.max(0, Math.min(1, p ?? 0)) * 100}%`;
    setText(row.querySelector(".p"), p === null ? "–" : p.toFixed(3));
    row.dataset.decided = String(label === device.decided);
  });
}

function classRow(label, enter, exit) {
  const track = el("span", { className: "track" }, el("b"));
  for (const [name, value] of [["exit", exit], ["enter", enter]]) {
    if (value === null || label === "none") continue;
    const line = el("i", { className: name });
    line.style.left = `${value * 100}%`;
    track.append(line);
  }
  const name = device.names.get(label) ?? label;
  return el("div", { className: "class" }, el("span", { title: label }, name), track, el("span", { className: "p" }));
}

// Tables

function drawTable(id, heads, rows) {
  const box = byId(id);
  if (!rows.length) {
    delete box.dataset.rows;
    return box.replaceChildren(el("p", { className: "none" }, NOT_AVAILABLE));
  }
  const names = rows.map(([name]) => name).join();
  if (box.dataset.rows !== names) {
    box.dataset.rows = names;
    const cell = (i) => el("td", { className: i ? "n" : "" });
    const head = el("tr", {}, ...heads.map((text, i) => el("th", { scope: "col", className: i ? "n" : "" }, text)));
    const body = rows.map((row) => el("tr", {}, ...row.map((_, i) => cell(i))));
    box.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
  }
  const cells = box.querySelectorAll("td");
  rows.flat().forEach((value, i) => setText(cells[i], String(value)));
}

function drawFrame() {
  const { frame } = device;
  const stages = entries(frame?.stages).map(([name, s]) => [name, ms(s?.p50_us), ms(s?.p99_us)]);
  drawTable("stages", ["Stage", "p50 ms", "p99 ms"], stages);
  const queues = entries(frame?.queues).map(([name, q]) => [name, number(q?.dropped) ?? "–"]);
  drawTable("queues", ["Source", "samples"], queues);
  drawModalities();
  drawFused();
  drawFacts();
}

// Events

function addDecision(event) {
  if (event.state === "enter") device.decided = event.class;
  else if (event.state === "exit") device.decided = null;
  const weights = entries(event.modalities)
    .filter(([, m]) => (number(m?.weight) ?? 0) >= 0.005)
    .map(([name, m]) => `${name} ${Math.round(m.weight * 100)} %`);
  const told = String(event.advice?.text ?? "");
  const row = el(
    "tr",
    {},
    el("td", {}, seconds(event.t_us)),
    el("td", { className: `d-${String(event.state)}` }, String(event.state)),
    el("td", {}, String(event.class) + (event.intent ? ` · ${event.intent}` : "")),
    el("td", { className: "n" }, fixed(event.p)),
    el("td", {}, weights.join(", ") || "–"),
    el("td", { title: told }, told),
  );
  const body = byId("decisions");
  body.prepend(row);
  while (body.children.length > DECISIONS_MAX) body.lastChild.remove();
}

function note(t_us, state, what, text) {
  const log = byId("log");
  const line = el("li", { "data-state": state }, el("span", {}, seconds(t_us)), el("b", {}, what), el("span", {}, text));
  log.prepend(line);
  while (log.children.length > LOG_MAX) log.lastChild.remove();
}

function onEvent({ type, data }) {
  if (!data || typeof data !== "object") return;
  const t = data.t_us;
  if (type === "gap") note(null, "gap", "gap", `${data.missed} events came and went while the page was away`);
  else if (data.kind === "decision") addDecision(data);
  else if (data.kind === "modality") {
    device.reasons.set(String(data.modality), String(data.reason ?? ""));
    note(t, String(data.state), String(data.modality), `${data.state}: ${data.reason ?? ""}`);
  } else if (data.kind === "notice") note(t, String(data.notice), String(data.source), `${data.notice}: ${data.reason ?? ""}`);
  else if (data.kind === "start" || data.kind === "end") {
    if (data.kind === "start") device.decided = null;
    note(t, data.kind, data.kind, data.kind === "start" ? "the pipeline is ready" : "the sources have ended");
  }
}

// Camera

/** Shows the newest picture while the preview is on and somebody looks at the page; asks for none otherwise. */
async function drawPreview() {
  const isOn = device.state.preview === true;
  if (isOn && document.hidden) return setTimeout(drawPreview, PREVIEW_MS);
  const { bitmap, why } = isOn ? await picture("/api/preview.jpg") : { bitmap: null, why: null };
  const canvas = byId("preview");
  canvas.hidden = bitmap === null;
  if (bitmap) {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  } else canvas.width = canvas.height = 0;
  const off = "The preview is off: pictures do not leave the program.";
  setText(byId("preview-note"), !isOn ? off : why ? `The preview is on, and there is no picture: ${why}.` : "The preview is on: pictures leave the program.");
  setTimeout(drawPreview, PREVIEW_MS);
}

// State

async function readState() {
  const { status, data } = await api("/api/state");
  if (status !== 200 || !data) return;
  device.state = data;
  if (data.bundle !== device.bundle) {
    // At the start, and when another bundle has taken over: its names may be others.
    device.bundle = data.bundle;
    await readNames();
  }
  if (data.visit?.state === "enter") device.decided = data.visit.class ?? null;
  drawFacts();
  if (!device.frame) drawFrame();
}

function setLink(name, status) {
  if (link[name] === status) return;
  if (status === "lost" || (status === "open" && link[name] === "lost")) note(device.frame?.t_us, status, name, status === "open" ? "connected again" : "connection lost");
  link[name] = status;
  drawFacts();
}

async function readNames() {
  const { data } = await api("/api/catalogue");
  device.names.clear();
  for (const c of list(data?.classes)) {
    const short = c?.short?.[data.lang ?? "en"];
    if (typeof c?.class === "string" && typeof short === "string") device.names.set(c.class, short);
  }
  // Drawn again with the next frame.
  delete byId("fused").dataset.classes;
}

async function start() {
  await readState();
  drawFrame();
  const onStatus = (name) => (status, http) => setLink(name, http === 401 ? "needs its token (#token=… in the address)" : status);
  stream("/api/events", { onMessage: onEvent, onStatus: onStatus("events") });
  stream("/api/telemetry", {
    onMessage: ({ data: frame }) => {
      if (!frame || typeof frame !== "object") return;
      device.frame = frame;
      remember(frame);
      drawMel(frame.mel);
      drawFrame();
    },
    onStatus: onStatus("telemetry"),
  });
  setInterval(readState, STATE_MS);
  drawPreview();
}

start();
