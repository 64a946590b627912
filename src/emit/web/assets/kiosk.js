// The page in front of the visitor. One model, one scene at a time, and one way to forget a visitor: `reset`.
// It decides nothing: desks come from the server's events, and what the visitor touches or types goes to the server.

import { api, byId, el, entries, list, number, setText, stream } from "./common.js";
import { keyboard } from "./keyboard.js";
import { LANGUAGES } from "./strings.js";

// A visitor who has said nothing for this long has left: everything of the visit goes.
const FORGET_MS = 20_000;
// Somebody who types or reads through all desks gets longer.
const FORGET_INPUT_MS = 60_000;
// A spoken number holds for a second or two; the advice stays long enough to be read.
const READ_MS = 8000;
const ANSWER_MS = 5000;
// A key pressed this recently: the visitor is typing, and a decision waits so that it does not take the keyboard away.
const TYPING_MS = 4000;
const CURTAIN_AFTER_MS = 5000;
// Sources that are lost or opened for a moment (a replug, the start) must not make the page jump.
const SENSORS_LOST_MS = 3000;
const STATE_EVERY_MS = 2000;
const LEAST_WEIGHT = 0.005;
/** The scene that a decision of this state brings. */
const SCENES = { enter: "advice", ask: "ask", escalate: "staff" };

const FOOT = {
  idle: ["all_desks"],
  hearing: ["cancel"],
  advice: ["not_right", "done"],
  ask: ["something_else", "cancel"],
  staff: ["done"],
  desks: ["back"],
  type: [],
  notice: ["back"],
};

/** What is known of the device. It outlives visitors. */
const device = {
  /** Name and version of the bundle whose catalogue this is. */
  bundle: null,
  lang: "en",
  catalogue: { languages: [], classes: new Map(), rules: {}, intents: {} },
  sources: { card: "camera", speech: "mic", request: "text" },
  modalities: new Map(),
  sensors: [],
  /** What visitors are told of being seen and heard, by language. */
  notice: {},
  /** Whether the run has begun and not ended. */
  runs: true,
  /** Whether any desk may be chosen by touch; undefined: only the answer to a choice tells. */
  fallback: undefined,
  denied: false,
  lostSinceMs: null,
  sensorsLostSinceMs: null,
  telemetryAtMs: -Infinity,
};

/** What is known of the visitor; replaced as a whole by `reset`. */
let visit = newVisit();
let scene = "idle";
let lang = "en";
let forgetTimer;
let leftBar;

function newVisit() {
  return {
    said: "",
    decision: null,
    waiting: null,
    shownAtMs: 0,
    answerTimer: null,
    exitTimer: null,
    typedAtMs: -Infinity,
    note: "",
    /** The scene that the notice was opened from. */
    readFrom: null,
  };
}

// Words

const t = (key, values = {}) =>
  (LANGUAGES[lang]?.texts[key] ?? LANGUAGES.en.texts[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

const pageLanguage = (tag) => {
  const primary = String(tag ?? "").toLowerCase().split("-")[0];
  return primary in LANGUAGES ? primary : null;
};

/** The entry of a text by language that the page shows, or null. */
function inLanguage(texts) {
  const found = entries(texts).find(([tag]) => pageLanguage(tag) === lang);
  return found && typeof found[1] === "string" ? found[1] : null;
}

/** How a class is shown: the number that stands above a desk if its label ends in one, and what it is for. */
function desk(label) {
  const known = device.catalogue.classes.get(label);
  const digits = /(\d{1,3})$/.exec(label)?.[1] ?? "";
  const short = inLanguage(known?.short) ?? "";
  const topic = /[(（](.+)[)）]\s*$/.exec(short)?.[1] ?? (digits ? "" : short || label);
  const name = digits ? t("desk", { n: digits }) : topic;
  return { digits, topic, name, text: inLanguage(known?.texts) };
}

/** The advice of an event in the page's language: as sent, or by its id from the catalogue. */
function adviceText(decision) {
  const advice = decision.advice;
  if (advice && pageLanguage(advice.lang) === lang) return { text: advice.text, lang: null };
  const { rules, intents } = device.catalogue;
  const shorts = list(decision.choices).map((c) => inLanguage(device.catalogue.classes.get(c.class)?.short) ?? desk(c.class).name);
  const template = inLanguage(rules[shorts.length === 3 ? "ask_three" : "ask"]);
  const translated =
    decision.state === "ask"
      ? template?.replace(/\{([abc])\}/g, (_, at) => shorts["abc".indexOf(at)] ?? "")
      : (inLanguage(intents[advice?.id]?.texts) ?? inLanguage(rules[advice?.id]) ?? desk(decision.class).text);
  if (translated) return { text: translated, lang: null };
  // Better the device's language than nothing, and marked so that a screen reader pronounces it as what it is.
  return { text: advice?.text ?? "", lang: advice?.lang ?? null };
}

const percent = (value) => new Intl.NumberFormat(LANGUAGES[lang].tag, { style: "percent" }).format(value);

const sourceOf = (modality) => device.sources[modality] ?? "other";
const known = (source) => ["camera", "mic", "text"].includes(source);
const senseName = (modality) => (known(sourceOf(modality)) ? t(`sense_${sourceOf(modality)}`) : modality);
const senseState = (modality, state) => t(`${known(sourceOf(modality)) ? sourceOf(modality) : "other"}_${state}`);

/** The notice in the page's language, or else the device's, or else any: better in another language than untold. */
function noticeText() {
  const known = entries(device.notice).filter(([, text]) => typeof text === "string" && text.trim() !== "");
  const found = [lang, device.lang].map((of) => known.find(([tag]) => pageLanguage(tag) === of)).find(Boolean) ?? known[0];
  return found ? { text: found[1], lang: pageLanguage(found[0]) === lang ? null : found[0] } : null;
}

// Scenes

const restScene = () => (sensorsLost() ? "desks" : "idle");

function show(next, { focus = null } = {}) {
  if (next !== scene) {
    byId(scene).hidden = true;
    scene = next;
    byId(scene).hidden = false;
    document.body.dataset.scene = scene;
  }
  drawFoot();
  fit();
  armForget();
  if (focus) focus.focus({ preventScroll: true });
  else if (document.activeElement?.closest("[hidden]") || document.activeElement === null) document.body.focus();
}

/** Makes the scene's large text smaller until everything is seen: a text of the catalogue can be of any length. */
function fit() {
  const section = byId(scene);
  const texts = section.querySelectorAll(".display, #advice-text, #said-text, .lede, .topic, .notice");
  for (const node of texts) node.style.fontSize = "";
  section.classList.remove("tight");
  for (let round = 0; round < 14 && overflows(section); round += 1) {
    if (round === 2) section.classList.add("tight");
    for (const node of texts) node.style.fontSize = `${parseFloat(getComputedStyle(node).fontSize) * 0.9}px`;
  }
}

function overflows(section) {
  const spills = (node) => node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1;
  return [section, ...section.querySelectorAll(".desk")].some(spills);
}

function say(text) {
  setText(byId("spoken"), text);
}

function translate() {
  document.documentElement.lang = LANGUAGES[lang].tag;
  for (const node of document.querySelectorAll("[data-t]")) setText(node, t(node.dataset.t));
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  const other = otherLanguage();
  const button = byId("language");
  button.hidden = other === null;
  if (other) {
    button.lang = LANGUAGES[other].tag;
    setText(button, LANGUAGES[other].name);
  }
  const invitation = inLanguage(device.catalogue.rules.exit) ?? t("invitation");
  setText(byId("invitation"), invitation);
  byId("request").placeholder = t("type_hint");
  keyboard(byId("keys"), byId("request"), { texts: t, onSend: sendText, onClose: reset });
  draw();
}

/** Everything that depends on the model, in the language of the page. */
function draw() {
  drawRecording();
  drawWays();
  drawChips();
  drawDesks();
  drawNote();
  drawNotice();
  if (visit.decision) drawDecision(visit.decision);
  drawCurtain();
  drawFoot();
  fit();
}

function drawFoot() {
  const isHome = scene === "desks" && sensorsLost() && !visit.decision;
  const keys = FOOT[scene].filter((key) => !(key === "back" && isHome));
  const actions = byId("actions");
  const wanted = keys.map((key) => `${key} ${lang}`).join();
  // Rebuilt only when it changes: a button that is replaced while it has the focus loses it.
  if (actions.dataset.keys === wanted) return;
  actions.dataset.keys = wanted;
  const does = { all_desks: openDesks, not_right: openDesks, something_else: openDesks, back: goBack };
  const button = (key) => {
    const node = el("button", { type: "button", className: key === "done" ? "pill strong" : "pill", "data-key": key }, t(key));
    node.addEventListener("click", does[key] ?? (() => reset({ mute: true })));
    return node;
  };
  actions.replaceChildren(...keys.map(button));
}

function drawRecording() {
  const open = device.sensors.filter((s) => s.open);
  const name = (s) => (known(s.name) ? t(`on_${s.name}`) : t("on_other", { name: s.name }));
  byId("recording").dataset.open = String(open.length > 0);
  setText(byId("recording-text"), open.length ? open.map(name).join(" · ") : t("on_none"));
}

function drawWays() {
  for (const way of document.querySelectorAll(".way")) {
    const source = way.dataset.source;
    const states = statesOf(source);
    const failed = states.length > 0 && states.every((s) => s === "failed");
    way.hidden = device.modalities.size > 0 && states.length === 0;
    way.classList.toggle("failed", failed);
    const hint = way.querySelector("[data-t$='_hint'], [data-t$='_failed']");
    if (source === "text") continue;
    hint.dataset.t = `way_${source}_${failed ? "failed" : "hint"}`;
    setText(hint, t(hint.dataset.t));
  }
}

function drawChips() {
  const chips = byId("chips");
  const names = [...device.modalities.keys()];
  if (chips.children.length !== names.length) {
    chips.replaceChildren(
      ...names.map(() => el("li", { className: "chip" }, icon("other"), el("span", {}, el("strong"), el("span")))),
    );
  }
  names.forEach((name, i) => {
    const chip = chips.children[i];
    const told = device.modalities.get(name);
    // Lit at once when something was sent: the server tells of it a moment later.
    const state = visit.said && sourceOf(name) === "text" && told === "absent" ? "ok" : told;
    chip.dataset.state = state;
    if (chip.dataset.source !== sourceOf(name)) {
      chip.dataset.source = sourceOf(name);
      chip.firstChild.replaceWith(icon(sourceOf(name)));
    }
    setText(chip.querySelector("strong"), senseName(name));
    setText(chip.querySelector("span span"), senseState(name, state));
  });
}

/** The drawing that stands on the first screen for the same sense. */
function icon(source) {
  const art = document.querySelector(`.way[data-source="${source}"] .art`);
  const copy = art?.cloneNode(true) ?? el("span", { className: "art", "aria-hidden": "true" });
  copy.classList.add("still");
  return copy;
}

function deskButton(label) {
  const { digits, topic, name } = desk(label);
  const button = el("button", { type: "button", className: "desk", "data-class": label });
  if (digits) button.append(el("span", { className: "digits" }, digits));
  if (topic) button.append(el("span", { className: "topic" }, topic));
  if (digits && !topic) button.setAttribute("aria-label", name);
  button.addEventListener("click", () => choose(label));
  return button;
}

function drawDesks() {
  const grid = byId("grid");
  const labels = [...device.catalogue.classes.keys()];
  const wanted = JSON.stringify([lang, labels.map((label) => desk(label))]);
  if (grid.dataset.labels !== wanted) {
    grid.dataset.labels = wanted;
    // Two rows on a wide panel as long as the buttons stay wide enough to be read, then three.
    grid.style.setProperty("--wide", Math.max(1, Math.ceil(labels.length / (labels.length > 12 ? 3 : 2))));
    grid.style.setProperty("--tall", labels.length > 14 ? 3 : 2);
    grid.replaceChildren(...labels.map(deskButton));
  }
  setText(byId("desks-note"), visit.note ? t(visit.note) : t(sensorsLost() ? "desks_lost" : "desks_hint"));
  byId("desks-note").classList.toggle("alert", visit.note !== "");
}

function drawNote() {
  const note = byId("type-note");
  setText(note, t(visit.note || "type_note"));
  note.classList.toggle("alert", visit.note !== "");
}

function drawNotice() {
  const notice = noticeText();
  for (const node of [byId("notice-line"), byId("notice-text")]) {
    setText(node, notice?.text ?? "");
    if (notice?.lang) node.lang = notice.lang;
    else node.removeAttribute("lang");
  }
  byId("notice-line").hidden = byId("open-notice").hidden = notice === null;
}

function drawDecision(decision) {
  const { text, lang: textLang } = adviceText(decision);
  const marked = (node) => {
    setText(node, text);
    if (textLang) node.lang = textLang;
    else node.removeAttribute("lang");
  };
  if (decision.state === "ask") {
    marked(byId("question"));
    setText(byId("ask-hint"), t(statesOf("mic").includes("failed") ? "ask_hint_silent" : "ask_hint"));
    const choices = byId("choices");
    const wanted = JSON.stringify([lang, decision.seq]);
    if (choices.dataset.of !== wanted) {
      choices.dataset.of = wanted;
      choices.replaceChildren(...list(decision.choices).map((c) => deskButton(String(c.class))));
    }
  } else if (decision.state === "escalate") {
    marked(byId("staff-text"));
  } else {
    const { digits, topic, name } = desk(decision.class);
    byId("advice").dataset.digits = String(digits.length);
    setText(byId("numeral"), digits);
    setText(byId("advice-desk"), digits ? name : "");
    setText(byId("advice-topic"), topic);
    marked(byId("advice-text"));
    // The desk's name stands above in large letters; in front of an intent's text it would be read twice.
    const [frame, rest] = text.match(/^(.{1,60}?)\s*[:：]\s*(.+)$/s)?.slice(1) ?? [];
    const isIntent = decision.advice && decision.advice.id !== decision.class;
    if (isIntent && topic && frame?.includes(topic) && frame.includes(digits)) setText(byId("advice-text"), rest);
    drawWeights(decision);
  }
}

function drawWeights(decision) {
  const used = entries(decision.modalities).filter(([, m]) => (number(m?.weight) ?? 0) >= LEAST_WEIGHT);
  const isTouched = decision.by === "choice";
  byId("senses").hidden = used.length === 0 && !isTouched;
  const title = byId("senses").firstElementChild;
  title.dataset.t = isTouched ? "by_touch" : "senses";
  setText(title, t(title.dataset.t));
  byId("weights").replaceChildren(
    ...(isTouched ? [] : used).map(([name, m]) => {
      const bar = el("span", { className: "bar", "aria-hidden": "true" }, el("span"));
      bar.firstChild.style.width = `${Math.min(100, m.weight * 100)}%`;
      const value = el("span", { className: "value" }, percent(m.weight));
      return el("li", {}, el("span", {}, senseName(name)), bar, value);
    }),
  );
}

function drawCurtain() {
  const lostMs = device.lostSinceMs === null ? -1 : performance.now() - device.lostSinceMs;
  const banner = byId("banner");
  banner.hidden = lostMs < 0;
  setText(banner, lostMs < 0 ? "" : t("lost"));
  const curtain = byId("curtain");
  const title = device.denied ? "token" : "moment";
  const isDown = device.denied || !device.runs || lostMs >= CURTAIN_AFTER_MS;
  setText(byId("curtain-title"), isDown ? t(title) : "");
  setText(byId("curtain-hint"), isDown ? t(`${title}_hint`) : "");
  curtain.hidden = !isDown;
  // What lies behind the curtain is neither touched nor read.
  for (const id of ["top", "stage", "actions"]) byId(id).inert = isDown;
}

// The visit

/** Forgets the visitor: text, advice, choices and settings, in the document and in memory. */
function reset({ mute = false } = {}) {
  clearTimeout(visit.answerTimer);
  clearTimeout(visit.exitTimer);
  presence.muted = mute;
  presence.frames = 0;
  visit = newVisit();
  for (const id of ["said-text", "numeral", "advice-desk", "advice-topic", "advice-text", "question", "staff-text"]) {
    setText(byId(id), "");
    byId(id).removeAttribute("lang");
  }
  for (const id of ["choices", "weights"]) byId(id).replaceChildren();
  delete byId("choices").dataset.of;
  forgetField();
  byId("said").hidden = true;
  say("");
  setContrast(contrastOfDevice.matches);
  if (lang !== device.lang) {
    lang = device.lang;
    translate();
  }
  show(restScene());
  draw();
}

/** A fresh field: the old one would give its text back on undo. */
function forgetField() {
  const old = byId("request");
  const fresh = old.cloneNode(false);
  fresh.value = "";
  old.replaceWith(fresh);
  listenToField(fresh);
  keyboard(byId("keys"), fresh, { texts: t, onSend: sendText, onClose: reset });
}

/** Starts the time after which this visitor is forgotten; nothing to forget, no time. */
function armForget() {
  clearTimeout(forgetTimer);
  leftBar?.cancel();
  const isSettled = scene === restScene() && lang === device.lang && contrastIsOn() === contrastOfDevice.matches && !visit.note;
  // While something is being understood, the visitor is there: the presence ends that scene, not the time.
  if (isSettled || (scene === "hearing" && !visit.said)) return;
  const isInput = ["type", "desks", "idle", "notice"].includes(scene);
  const ms = isInput ? FORGET_INPUT_MS : FORGET_MS;
  forgetTimer = setTimeout(() => reset({ mute: true }), ms);
  leftBar = byId("left").animate([{ transform: "scaleX(1)" }, { transform: "scaleX(0)" }], { duration: ms, fill: "forwards" });
}

function onDecision(event) {
  if (scene === "type" && performance.now() - visit.typedAtMs < TYPING_MS && event.state !== "exit") {
    visit.waiting = event;
    return;
  }
  if (event.state === "exit") return onExit(event);
  if (!Object.hasOwn(SCENES, event.state)) return;
  clearTimeout(visit.answerTimer);
  clearTimeout(visit.exitTimer);
  Object.assign(visit, { decision: event, waiting: null, answerTimer: null, shownAtMs: performance.now(), note: "", said: "" });
  setText(byId("said-text"), "");
  byId("said").hidden = true;
  const next = SCENES[event.state];
  drawDecision(event);
  show(next, { focus: next === "ask" ? byId("choices").firstElementChild : null });
  say(adviceText(event).text);
}

function onExit(event) {
  if (visit.waiting?.class === event.class) visit.waiting = null;
  if (visit.decision?.state !== "enter" || visit.decision.class !== event.class) return;
  clearTimeout(visit.exitTimer);
  const left = READ_MS - (performance.now() - visit.shownAtMs);
  // Another desk may take over at the same moment: its `enter` follows and stops this.
  visit.exitTimer = setTimeout(() => {
    if (visit.decision?.state !== "enter") return;
    // Who reads the notice goes on reading; there is nothing to go back to.
    if (scene === "notice") Object.assign(visit, { decision: null, readFrom: null });
    else reset();
  }, Math.max(left, 300));
}

/** Whether something that the visitor gave is being understood, also while he reads the notice. */
const isUnderstanding = () => scene === "hearing" || (scene === "notice" && visit.readFrom === "hearing");

/** After this, an answer is due: a decision, or in 5 s the request to try again. */
function expectAnswer(retry) {
  clearTimeout(visit.answerTimer);
  visit.answerTimer = setTimeout(async () => {
    const mine = visit;
    const { data } = await api("/api/state");
    if (mine !== visit || !isUnderstanding()) return;
    // The desk may be decided already, from the card that is still in view: then no event comes.
    if (data?.visit?.state === "enter" && data.visit.class) return onDecision(asEvent(data));
    tell("again", retry);
  }, ANSWER_MS);
}

/** Says why it did not work, on the screen where it can be tried again. */
function tell(note, where) {
  visit.note = note;
  drawNote();
  drawDesks();
  const field = byId("request");
  show(where, { focus: where === "type" ? field : null });
  say(t(note));
}

async function sendText() {
  const text = byId("request").value.trim();
  if (!text) return byId("request").focus();
  const mine = visit;
  Object.assign(visit, { said: text, note: "", decision: null, waiting: null, typedAtMs: -Infinity });
  setText(byId("said-text"), text);
  byId("said").hidden = false;
  drawChips();
  show("hearing");
  say(t("hearing"));
  expectAnswer("type");
  const { status } = await api("/api/text", { body: { text } });
  if (mine !== visit || !isUnderstanding() || status === 202) return;
  clearTimeout(visit.answerTimer);
  const notes = { 409: ["no_text", "desks"], 413: ["too_long", "type"], 429: ["wait", "type"], 503: ["no_text", "desks"] };
  tell(...(notes[status] ?? ["again", "type"]));
}

/** Shows the way to a desk out of the catalogue. Nothing is decided, and no output of the device hears of it. */
function lookUp(label) {
  if (!desk(label).text) return tell("cannot_choose", "desks");
  onDecision({ kind: "decision", state: "enter", class: label, by: "choice", modalities: {} });
}

async function choose(label) {
  const isOffered = list(visit.decision?.choices).some((c) => c.class === label);
  // While the machine sees or hears, it takes only answers to its questions; the list of desks is a directory.
  if (device.fallback === false && !isOffered) return lookUp(label);
  const from = scene;
  const mine = visit;
  const before = visit.decision;
  visit.note = "";
  visit.decision = null;
  show("hearing");
  say(t("hearing"));
  expectAnswer("desks");
  const { status } = await api("/api/choice", { body: { class: label } });
  if (mine !== visit || !isUnderstanding() || status === 202) return;
  clearTimeout(visit.answerTimer);
  // Too late to be an answer, but the way to the desk is known all the same.
  if (status === 409) return lookUp(label);
  visit.decision = before;
  tell(status === 429 ? "wait" : "again", from === "ask" ? "desks" : from);
}

function openType() {
  if (!document.querySelector('.way[data-source="text"]').hidden) show("type", { focus: byId("request") });
}

function openDesks() {
  visit.note = "";
  drawDesks();
  show("desks", { focus: byId("grid").firstElementChild });
}

function openNotice() {
  if (scene === "notice") return goBack();
  visit.readFrom = scene;
  show("notice");
  say(noticeText()?.text ?? "");
}

function closeNotice() {
  const from = visit.readFrom;
  visit.readFrom = null;
  say("");
  // What the visitor has chosen, a language for one, stays: he has only read.
  if (from) show(from === "idle" ? restScene() : from, { focus: from === "type" ? byId("request") : null });
  else reset();
}

function goBack() {
  if (scene === "notice") return closeNotice();
  const state = visit.decision?.state;
  if (state) show(SCENES[state]);
  else reset();
}

// What the server says

/** The visit that `/api/state` tells of, as the event that told of it. */
const asEvent = (state) => ({ ...state.visit, kind: "decision", seq: state.seq, modalities: {} });

async function readState() {
  const { status, data } = await api("/api/state");
  device.denied = status === 401 || status === 403;
  if (status !== 200 || !data) return null;
  // Not ready later on means that nothing is seen or heard, which the page shows otherwise; without an event nothing has begun.
  if (number(data.seq) === null) device.runs = data.ready !== false;
  device.fallback = data.fallback;
  // Another bundle has taken over while the program ran: its texts may be others.
  const isAnother = device.bundle !== null && device.bundle !== data.bundle;
  device.bundle = data.bundle ?? null;
  if (isAnother) readCatalogue();
  device.sensors = list(data.sensors);
  if (JSON.stringify(device.notice) !== JSON.stringify(data.notice ?? {})) {
    device.notice = data.notice ?? {};
    drawNotice();
    fit();
  }
  const wanted = pageLanguage(data.lang) ?? "en";
  for (const [name, m] of entries(data.modalities)) {
    device.sources[name] = m?.source ?? device.sources[name];
    setModality(name, m?.state);
  }
  if (wanted !== device.lang) {
    const follows = lang === device.lang;
    device.lang = wanted;
    if (follows) {
      lang = wanted;
      translate();
    }
  }
  // Without telemetry the state is all that tells whether somebody is there.
  if (performance.now() - device.telemetryAtMs > 3000) onPresence(data.visit?.active === true, 2);
  onSensors();
  drawRecording();
  drawCurtain();
  return data;
}

/** After a connection: a page that was loaded during a visit shows what was decided before it listened. */
async function takeUp() {
  if (device.catalogue.classes.size === 0) await readCatalogue();
  const state = await readState();
  const isOpen = ["enter", "ask"].includes(state?.visit?.state) && state.visit.class;
  if (isOpen && !visit.decision && !visit.said && !presence.muted && scene !== "type") onDecision(asEvent(state));
}

async function readCatalogue() {
  const { status, data } = await api("/api/catalogue");
  if (status !== 200 || !data) return;
  const classes = list(data.classes).filter((c) => typeof c?.class === "string" && c.class !== "none");
  device.catalogue = {
    languages: list(data.languages),
    classes: new Map(classes.map((c) => [c.class, c])),
    rules: data.rules ?? {},
    intents: data.intents ?? {},
  };
  translate();
}

const STATES = ["ok", "stale", "absent", "failed"];

function setModality(name, state) {
  if (STATES.includes(state)) device.modalities.set(name, state);
}

const statesOf = (source) =>
  [...device.modalities].filter(([name]) => sourceOf(name) === source).map(([, state]) => state);

const nothingSenses = () => {
  const states = [...statesOf("camera"), ...statesOf("mic")];
  if (states.length) return states.every((s) => s === "failed" || s === "absent");
  const eyesAndEars = device.sensors.filter((s) => s.name === "camera" || s.name === "mic");
  return eyesAndEars.length > 0 && eyesAndEars.every((s) => !s.open);
};

const sensorsLost = () =>
  device.sensorsLostSinceMs !== null && performance.now() - device.sensorsLostSinceMs >= SENSORS_LOST_MS;

function onSensors() {
  const wasLost = sensorsLost();
  if (!nothingSenses()) device.sensorsLostSinceMs = null;
  else device.sensorsLostSinceMs ??= performance.now();
  drawWays();
  drawChips();
  if (sensorsLost() && (scene === "idle" || (scene === "hearing" && !visit.said && !visit.answerTimer))) {
    show("desks");
    drawDesks();
  } else if (wasLost && !sensorsLost() && scene === "desks" && !visit.decision) {
    reset();
  }
}

/** Whether somebody is there, from the fused distribution: at least half a second of it, so that nothing flickers. */
const presence = { frames: 0, muted: false, goneFrames: 0 };

function onPresence(isThere, framesWanted) {
  presence.goneFrames = isThere ? 0 : presence.goneFrames + 1;
  presence.frames = isThere ? presence.frames + 1 : 0;
  // After a visitor is done, a card that is left lying in view is nobody.
  if (presence.goneFrames >= framesWanted) presence.muted = false;
  if (scene === "idle" && !presence.muted && presence.frames >= framesWanted) show("hearing");
  if (scene === "hearing" && !visit.said && visit.answerTimer === null && presence.goneFrames >= 4 * framesWanted) reset();
}

function onTelemetry({ data }) {
  device.telemetryAtMs = performance.now();
  const none = list(data?.classes).indexOf("none");
  const p = number(list(data?.fused)[none]);
  if (p !== null) onPresence(p < 0.5, 2);
  for (const [name, m] of entries(data?.modalities)) setModality(name, m?.state);
  if (Array.isArray(data?.sensors)) {
    device.sensors = data.sensors;
    drawRecording();
  }
  onSensors();
}

function onEvent({ type, data }) {
  if (!data || typeof data !== "object") return;
  // What happened in between is not known: the visitor may be another.
  if (type === "gap") {
    reset();
    return takeUp();
  }
  if (data.kind === "start" || data.kind === "end") {
    device.runs = data.kind === "start";
    drawCurtain();
  }
  for (const [name, m] of entries(data.modalities)) setModality(name, m?.state);
  if (data.kind === "start") reset();
  else if (data.kind === "modality") {
    setModality(data.modality, data.state);
    readState();
  } else if (data.kind === "decision") onDecision({ ...data, class: String(data.class ?? "") });
  onSensors();
}

// What the visitor does

const contrastIsOn = () => document.documentElement.dataset.contrast === "more";
const contrastOfDevice = matchMedia("(prefers-contrast: more)");

function setContrast(on) {
  if (on) document.documentElement.dataset.contrast = "more";
  else delete document.documentElement.dataset.contrast;
  byId("contrast").setAttribute("aria-pressed", String(on));
}

function otherLanguage() {
  const offered = [...new Set(device.catalogue.languages.map(pageLanguage).filter(Boolean))];
  const at = offered.indexOf(lang);
  return offered.length < 2 ? null : offered[(at + 1) % offered.length];
}

function listenToField(field) {
  field.addEventListener("input", () => {
    visit.typedAtMs = performance.now();
    if (visit.note) {
      visit.note = "";
      drawNote();
    }
    armForget();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    sendText();
  });
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("stage").inert) return;
  const buttons = scene === "ask" ? [...byId("choices").children] : scene === "desks" ? [...byId("grid").children] : [];
  if (event.key === "Escape") {
    if (scene === "desks" || scene === "notice") goBack();
    else if (scene !== "idle") reset({ mute: true });
  } else if (buttons.length) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const digit = buttons.find((b) => b.querySelector(".digits")?.textContent === event.key);
    if (step) buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
    else if (digit) digit.click();
    else return;
    event.preventDefault();
  } else if ((scene === "idle" || scene === "advice") && (event.key.length === 1 || event.key === "Process") && event.key !== " ") {
    // Whoever starts to type wants to type; the character itself still lands in the field.
    openType();
  }
}

function listen() {
  listenToField(byId("request"));
  byId("open-type").addEventListener("click", openType);
  byId("open-notice").addEventListener("click", openNotice);
  byId("language").addEventListener("click", () => {
    lang = otherLanguage() ?? lang;
    translate();
    armForget();
    if (visit.decision) say(adviceText(visit.decision).text);
  });
  byId("contrast").addEventListener("click", () => {
    setContrast(!contrastIsOn());
    fit();
    armForget();
  });
  document.addEventListener("keydown", onKey);
  // Any touch shows that the visitor is still there.
  document.addEventListener("pointerdown", () => armForget());
  document.addEventListener("contextmenu", (event) => event.preventDefault());
  addEventListener("resize", fit);
}

function tick() {
  if (visit.waiting && performance.now() - visit.typedAtMs >= TYPING_MS) onDecision(visit.waiting);
  drawCurtain();
}

async function start() {
  listen();
  setContrast(contrastOfDevice.matches);
  translate();
  await Promise.all([readCatalogue(), readState()]);
  translate();
  stream("/api/events", {
    onMessage: onEvent,
    onStatus: (status) => {
      if (status === "open") device.lostSinceMs = null;
      else device.lostSinceMs ??= performance.now();
      drawCurtain();
      if (status === "open") takeUp();
    },
  });
  stream("/api/telemetry", { onMessage: onTelemetry });
  setInterval(readState, STATE_EVERY_MS);
  setInterval(tick, 500);
}

start();
