// The kiosk page and the integrator's page in Chromium.
//
//   node --test browser.test.mjs                                  against the fake, which it starts itself
//   BASE_URL=http://127.0.0.1:8080 node --test browser.test.mjs   against a server; scenes that it cannot force are skipped
//   SHOTS=1 node --test browser.test.mjs                          also writes docs/images/web-*.png

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { Fake, demo } from "./fake.mjs";

const REAL = process.env.BASE_URL?.replace(/\/$/, "");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SHOTS = process.env.SHOTS === "1" && !REAL;
const IMAGES = fileURLToPath(new URL("../../docs/images", import.meta.url));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const SIZES = { portrait: [1080, 1920], landscape: [1920, 1080], panel: [800, 480] };
const PAGE_BYTES_MAX = 150_000;
const PIXEL_MS_MAX = 1000; // what no visitor would wait for; the aim is 100, and what was measured is printed
const TOUCH_PX_MIN = 64;
const EVENTS = 100;
const SHIFT_MAX = 0.1; // cumulative layout shift, web.dev: "good"; what was measured is printed

/** What only the fake can bring about. */
const forced = { skip: REAL ? "the scene cannot be forced on a real server" : false };

let browser;
let fake;
let base;

before(async () => {
  if (!REAL) fake = await new Fake().start();
  base = REAL ?? fake.url;
  const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
  // Playwright gives every launch a fresh profile.
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: [...flags, "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  await fake?.stop();
});

/** A page at `path`, and what went wrong on it: every test ends with none of it. */
async function open(path = "/", { size = "landscape", ...options } = {}) {
  const [width, height] = SIZES[size];
  const context = await browser.newContext({ viewport: { width, height }, ...options });
  const page = await context.newPage();
  const wrong = [];
  const bytes = new Map();
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && wrong.push(`console: ${m.text()}`));
  page.on("pageerror", (e) => wrong.push(`exception: ${e.stack}`));
  page.on("request", (r) => {
    const url = new URL(r.url());
    if (!["data:", "blob:"].includes(url.protocol) && url.origin !== base) wrong.push(`left the origin: ${r.url()}`);
  });
  page.on("response", async (r) => {
    const { pathname } = new URL(r.url());
    if (!pathname.startsWith("/api/")) bytes.set(pathname, (await r.body().catch(() => "")).length);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (e) => globalThis.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
  });
  fake?.calm();
  await page.goto(base + path);
  await page.waitForFunction((p) => (p.startsWith("/live") ? document.querySelector("#facts dd") : document.querySelector("#grid button")), path);
  return {
    page,
    bytes,
    /** Errors that a test provokes on purpose are told by their beginning. */
    async close(expected = /^$/) {
      wrong.push(...(await page.evaluate(() => globalThis.violations)));
      await context.close();
      assert.deepEqual(wrong.filter((w) => !expected.test(w)), []);
    },
  };
}

const scene = (page, name) => page.waitForSelector(`body[data-scene="${name}"] #${name}:not([hidden])`, { timeout: 9000 });
const text = (page, selector) => page.locator(selector).innerText();
/** Until what moves stands still: a colour in the middle of its transition has another contrast. */
const settle = (page) =>
  page.evaluate(async () => {
    const finite = () => document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime < 3000);
    await Promise.all(finite().map((a) => a.finished.catch(() => {})));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  });

/** Ends whatever visit a real server is in the middle of: its demo plays on. */
async function atRest(page) {
  for (let i = 0; i < 20 && (await page.getAttribute("body", "data-scene")) !== "idle"; i += 1) {
    await page.locator('[data-key="done"], [data-key="cancel"], [data-key="back"]').first().click({ timeout: 1000 }).catch(() => {});
  }
}

/** Nobody there any more, and the page knows it. */
async function calm(page) {
  fake.calm();
  fake.emit({ kind: "start" });
  await scene(page, "idle");
  await page.waitForFunction(() => document.querySelector("#spoken").textContent === "");
}

/** How to bring about each state of the kiosk page, and the scene that shows it. */
const STATES = {
  idle: { at: "idle", go: async () => {} },
  hearing: {
    at: "hearing",
    go: async (page) => {
      fake.answers = false;
      await page.click("#open-type");
      await page.fill("#request", "My bag did not arrive, and I would like to know whom I have to ask");
      await page.keyboard.press("Enter");
    },
  },
  present: { at: "hearing", go: async () => void (fake.towards = { desk_2: 0.5, none: 0.2 }) },
  advice: { at: "advice", go: async () => fake.enter("desk_3", { weights: { card: 0.62, speech: 0.38 } }) },
  intent: { at: "advice", go: async () => fake.enter("desk_5", { intent: "lost_luggage", weights: { card: 0.1, speech: 0.2, request: 0.7 } }) },
  ask: { at: "ask", go: async () => fake.ask("desk_3", "desk_8") },
  "ask three": { at: "ask", go: async () => fake.ask("desk_2", "desk_6", "desk_4") },
  staff: { at: "staff", go: async () => fake.escalate() },
  desks: { at: "desks", go: async (page) => page.click('[data-key="all_desks"]') },
  lost: { at: "desks", go: async () => fake.loseSensors() },
  type: { at: "type", go: async (page) => page.click("#open-type") },
  notice: { at: "notice", go: async (page) => page.click("#open-notice") },
  starting: { at: "idle", go: async (page) => ((fake.ready = false), page.waitForSelector("#curtain:not([hidden])")) },
};

/** `buttons` are pressed first: a calm page is back in the device's language and contrast. */
async function bring(page, name, ...buttons) {
  await calm(page);
  for (const button of buttons) await page.click(button);
  await STATES[name].go(page);
  await scene(page, STATES[name].at);
}

async function axe(page, where) {
  await settle(page);
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map((v) => `${where}: ${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`);
  assert.deepEqual(told, []);
}

/** What is cut off, too small to touch, or lies over another target. */
const misfits = (page, touchMin) =>
  page.evaluate((min) => {
    const said = [];
    const root = document.documentElement;
    if (root.scrollWidth > innerWidth || root.scrollHeight > innerHeight) said.push(`the page scrolls: ${root.scrollWidth}x${root.scrollHeight}`);
    const name = (n) => `${n.tagName.toLowerCase()}#${n.id}.${n.className} "${n.textContent.trim().slice(0, 24)}"`;
    const seen = (n) => n.checkVisibility({ visibilityProperty: true }) && !n.closest(".unseen") && n.getClientRects().length > 0;
    const curtain = document.querySelector("#curtain:not([hidden])");
    for (const n of document.querySelectorAll("body *:not(svg *)")) {
      if (!seen(n) || (curtain && !curtain.contains(n))) continue;
      const own = [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
      const box = n.getBoundingClientRect();
      if (own) {
        const range = document.createRange();
        range.selectNodeContents(n);
        const ink = range.getBoundingClientRect();
        if (ink.left < -1 || ink.right > innerWidth + 1 || box.top < -1 || box.bottom > innerHeight + 1) said.push(`off the screen: ${name(n)}`);
        for (let up = n; up !== document.body; up = up.parentElement) {
          if (getComputedStyle(up).overflowX !== "hidden") continue;
          const by = up.getBoundingClientRect();
          if (box.top < by.top - 1 || box.bottom > by.bottom + 1 || ink.left < by.left - 1 || ink.right > by.right + 1) said.push(`clipped: ${name(n)} by ${name(up)}`);
        }
      }
    }
    const targets = [...document.querySelectorAll("button, textarea, a[href]")].filter((n) => seen(n) && !n.closest("[inert]"));
    const boxes = targets.map((n) => n.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.width < min - 0.5 || a.height < min - 0.5) said.push(`${Math.round(a.width)}x${Math.round(a.height)} is too small to touch: ${name(targets[i])}`);
      for (let j = 0; j < i; j += 1) {
        const b = boxes[j];
        if (a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5) said.push(`${name(targets[i])} lies over ${name(targets[j])}`);
      }
    });
    return said;
  }, touchMin);

// What a visitor does

test("the demo plays and advice appears", forced, async () => {
  const { page, close } = await open();
  demo(fake, (ms) => new Promise((done) => setTimeout(done, ms / 4).unref()));
  await scene(page, "advice");
  assert.equal(await text(page, "#numeral"), "7");
  assert.match(await text(page, "#advice-text"), /^Please go to desk 7/);
  assert.deepEqual(await page.locator("#weights li").allInnerTexts().then((t) => t.map((s) => s.replace(/\s+/g, " "))), ["Card 62%", "Voice 38%"]);
  assert.match(await text(page, "#spoken"), /desk 7/);
  await scene(page, "ask");
  await close();
  // The demo goes on for ever; the other tests get a fake of their own.
  await fake.stop();
  fake = await new Fake().start();
  base = fake.url;
});

test("a typed request is answered", async () => {
  const { page, close } = await open();
  await atRest(page);
  await page.click("#open-type");
  await scene(page, "type");
  for (const key of "i lost my card") await page.locator(".key", { hasText: key === " " ? "Space" : new RegExp(`^${key}$`) }).click();
  assert.equal(await page.inputValue("#request"), "i lost my card");
  await page.locator(".key[aria-label='Delete']").click();
  await page.keyboard.type("d");
  assert.equal(await page.inputValue("#request"), "i lost my card", "the focus has left the field");
  await page.click("#key-send");
  await scene(page, "hearing");
  assert.match(await text(page, "#said-text"), /i lost my card/);
  await page.waitForSelector("body:is([data-scene=advice], [data-scene=ask])", { timeout: 6000 });
  if (!REAL) {
    assert.deepEqual(fake.posts, [{ path: "/api/text", body: { text: "i lost my card" } }]);
    assert.equal(await text(page, "#numeral"), "1");
    assert.match(await text(page, "#advice-text"), /block the lost card/i);
  }
  await close();
});

test("a request that nobody answers asks to try again, and keeps the text", forced, async () => {
  const { page, close } = await open();
  fake.answers = false;
  await page.keyboard.type("hello there");
  await page.keyboard.press("Enter");
  await scene(page, "hearing");
  await scene(page, "type");
  assert.match(await text(page, "#type-note"), /try again/);
  assert.equal(await page.inputValue("#request"), "hello there");
  for (const [status, note] of [[413, /too long/], [429, /in a moment/], [500, /try again/]]) {
    fake.textStatus = status;
    await page.click("#key-send");
    await page.waitForFunction((n) => new RegExp(n).test(document.querySelector("#type-note").textContent), note.source);
    await scene(page, "type");
  }
  fake.textStatus = 503;
  await page.click("#key-send");
  await scene(page, "desks");
  assert.match(await text(page, "#desks-note"), /Typing does not work/);
  await close(/status of (413|429|500|503)/);
});

test("a question is answered by touch, by key and by arrows", forced, async () => {
  const { page, close } = await open();
  const answers = [
    async () => page.click('#choices [data-class="desk_8"]'),
    async () => page.keyboard.press("8"),
    async () => (await page.keyboard.press("ArrowRight"), page.keyboard.press("Enter")),
  ];
  for (const answer of answers) {
    await calm(page);
    fake.ask("desk_3", "desk_8");
    await scene(page, "ask");
    assert.equal(await text(page, "#question"), "Did you mean 3 (home) or 8 (small talk)?");
    await answer();
    await scene(page, "advice");
    assert.deepEqual(fake.posts, [{ path: "/api/choice", body: { class: "desk_8" } }]);
    assert.equal(await text(page, "#numeral"), "8");
    assert.equal(await text(page, "#senses"), "You chose it yourself.");
  }
  // Refused for another reason; or taken back, and the page does not know it yet.
  for (const [status, at, where, told] of [[500, "desks", "#desks-note", /try again/], [409, "advice", "#advice-text", /go to desk 3/]]) {
    await calm(page);
    fake.choiceStatus = status;
    fake.ask("desk_3", "desk_8");
    await scene(page, "ask");
    await page.keyboard.press("3");
    await scene(page, at);
    assert.match(await text(page, where), told);
  }
  await close(/status of (409|500)/);
});

test("the list of desks is a directory while the machine sees and hears", forced, async () => {
  const { page, close } = await open();
  await page.click('[data-key="all_desks"]');
  await scene(page, "desks");
  await page.keyboard.press("2");
  await scene(page, "advice");
  assert.match(await text(page, "#advice-text"), /go to desk 2/);
  assert.deepEqual(fake.posts, [], "nothing was offered, so nothing is to be chosen");
  await close();
});

test("the language is switched, and back after the visit", forced, async () => {
  const { page, close } = await open();
  const lang = () => page.evaluate(() => document.documentElement.lang);
  assert.equal(await lang(), "en");
  fake.enter("desk_5", { intent: "lost_luggage" });
  await scene(page, "advice");
  assert.equal(await text(page, "#advice-text"), "Report lost luggage; bring the luggage tag and boarding pass.");
  await page.click("#language");
  assert.equal(await lang(), "zh-Hans");
  assert.equal(await text(page, "#advice-text"), "登记遗失行李，请带好行李牌和登机牌。");
  assert.equal(await text(page, "#advice-topic"), "旅行");
  fake.ask("desk_3", "desk_8");
  await scene(page, "ask");
  assert.equal(await text(page, "#question"), "请问您要找 3 号（家居生活），还是 8 号（闲聊）？");
  await page.click('[data-key="cancel"]');
  await scene(page, "idle");
  assert.equal(await lang(), "en");
  assert.equal(await text(page, "#idle-title"), "How can we help you?");
  await close();
});

test("without short names and intents in the catalogue the page falls back to the desk's text", forced, async () => {
  const { classes, intents } = fake.catalogue;
  fake.catalogue.classes = classes.map(({ class: label, texts }) => ({ class: label, texts }));
  delete fake.catalogue.intents;
  const { page, close } = await open();
  fake.enter("desk_5", { advice: { id: "lost_luggage", lang: "en", text: "Desk 5, travel: report lost luggage." } });
  await scene(page, "advice");
  await page.click("#language");
  assert.equal(await text(page, "#advice-text"), "请到 5 号窗口（旅行），办理机票、酒店和签证。");
  await page.click('[data-key="not_right"]');
  await scene(page, "desks");
  assert.equal(await text(page, '#grid [data-class="desk_5"]'), "5");
  Object.assign(fake.catalogue, { classes, intents });
  await close();
});

test("without camera and microphone the desks are offered, and can be chosen", forced, async () => {
  const { page, close } = await open();
  assert.match(await text(page, "#recording"), /Camera on · Microphone on/);
  fake.loseSensors();
  await scene(page, "desks");
  assert.match(await text(page, "#desks-note"), /neither see nor hear/);
  assert.match(await text(page, "#recording"), /Camera and microphone off/);
  assert.equal(await page.locator("#grid button").count(), 10);
  await page.click('#grid [data-class="desk_6"]');
  await scene(page, "advice");
  assert.deepEqual(fake.posts, [{ path: "/api/choice", body: { class: "desk_6" } }]);
  await page.click('[data-key="done"]');
  await scene(page, "desks");
  fake.setModality("speech", "ok");
  fake.sensors.mic = true;
  await scene(page, "idle");
  assert.match(await text(page, "#recording"), /^\s*Microphone on/);
  await close();
});

test("a decision waits while somebody types", forced, async () => {
  const { page, close } = await open();
  await page.keyboard.type("my ba");
  fake.enter("desk_2");
  await page.keyboard.type("g is gone");
  await page.waitForTimeout(1500);
  assert.equal(await page.inputValue("#request"), "my bag is gone");
  await scene(page, "advice");
  assert.equal(await text(page, "#numeral"), "2");
  await close();
});

/** Everything that a document can hold of a visitor. */
const remains = (page) =>
  page.evaluate(() => {
    const values = [...document.querySelectorAll("input, textarea")].map((n) => n.value + n.defaultValue);
    return [document.documentElement.outerHTML, ...values, JSON.stringify([localStorage, sessionStorage, document.cookie])].join("\n");
  });

test("nothing of a visitor is left after the exit, after silence, and after Done", forced, async () => {
  const secret = "my lost card ends in 4711";
  const told = /lost card|4711|Desk 1|credit card.*limits/;
  const leave = {
    exit: async () => fake.exit("desk_1"),
    silence: async () => {},
    done: async (page) => page.click('[data-key="done"]'),
  };
  const spent = {};
  for (const [how, go] of Object.entries(leave)) {
    const { page, close } = await open();
    await page.keyboard.type(secret);
    await page.keyboard.press("Enter");
    await scene(page, "advice");
    assert.match(await remains(page), told);
    const since = Date.now();
    await go(page);
    await page.waitForSelector('body[data-scene="idle"]', { timeout: 25_000 });
    spent[how] = Date.now() - since;
    // The names of the desks stand on hidden buttons, for every visitor alike.
    await page.evaluate(() => document.querySelector("#grid").remove());
    assert.doesNotMatch(await remains(page), told, how);
    await page.click("#open-type");
    // The undo of the field is a memory too.
    await page.keyboard.press("Control+z");
    assert.equal(await page.inputValue("#request"), "");
    await close();
  }
  assert.ok(spent.exit < 10_000 && spent.silence > 18_000 && spent.silence < 23_000, JSON.stringify(spent));
});

test("a lost connection is told, and taken up again without a hole", forced, async () => {
  const { page, close } = await open();
  const port = Number(new URL(fake.url).port);
  fake.enter("desk_1");
  await scene(page, "advice");
  await fake.stop();
  await page.waitForSelector("#banner:not([hidden])");
  assert.match(await text(page, "#banner"), /Reconnecting/);
  assert.match(await text(page, "#recording"), /Camera on/, "what was open may still be");
  await page.waitForSelector("#curtain:not([hidden])", { timeout: 8000 });
  assert.match(await text(page, "#curtain"), /One moment please/);
  await axe(page, "curtain");
  fake.exit("desk_1");
  fake.enter("desk_9");
  await fake.start(port);
  await page.waitForFunction(() => document.querySelector("#numeral").textContent === "9");
  assert.equal(await page.locator("#curtain").isVisible(), false);
  await close(/ERR_|Failed to load/);
});

test("another run of the program forgets the visitor of the one before", forced, async () => {
  const { page, close } = await open();
  const port = Number(new URL(fake.url).port);
  fake.enter("desk_4");
  await scene(page, "advice");
  await fake.stop();
  fake.restart();
  fake.calm();
  fake.emit({ kind: "start" });
  await fake.start(port);
  await scene(page, "idle");
  assert.equal(await text(page, "#spoken"), "");
  fake.enter("desk_6");
  await scene(page, "advice");
  await close(/ERR_|Failed to load/);
});

test("a page that is loaded during a visit shows its advice", forced, async () => {
  const { page, close } = await open();
  fake.enter("desk_4");
  await scene(page, "advice");
  await page.reload();
  await scene(page, "advice");
  assert.equal(await text(page, "#numeral"), "4");
  await close();
});

test("the token is sent, and leaves the address bar", forced, async () => {
  fake.token = "s3cret/+";
  const { page, close } = await open("/#token=s3cret%2F%2B");
  assert.equal(new URL(page.url()).hash, "");
  fake.enter("desk_0");
  await scene(page, "advice");
  await page.goto(base);
  await page.waitForSelector("#curtain:not([hidden])");
  assert.match(await text(page, "#curtain"), /token/);
  fake.token = null;
  await close(/status of 401/);
});

test("what an event says stays text", forced, async () => {
  const evil = '<img src=x onerror="globalThis.hit=1"><script>globalThis.hit=1</script>';
  const { page, close } = await open();
  const live = await open("/live");
  fake.enter("desk_3", { advice: { id: "desk_3", lang: "en", text: evil } });
  await scene(page, "advice");
  assert.equal(await text(page, "#advice-text"), evil);
  fake.emit({ kind: "decision", class: evil, p: 0.5, state: "ask", advice: { id: evil, lang: evil, text: evil }, choices: [{ class: evil, p: 0.5 }, { class: "desk_1", p: 0.4 }] });
  await scene(page, "ask");
  fake.emit({ kind: "modality", modality: evil, state: evil, reason: evil });
  fake.emit({ kind: "notice", source: evil, notice: evil, reason: evil });
  fake.telemetryPatch = { classes: [evil], fused: [evil], stages: { [evil]: { p50_us: evil } }, queues: { [evil]: { dropped: evil } } };
  await live.page.locator("#log li", { hasText: "onerror" }).first().waitFor();
  await live.page.locator("#stages td", { hasText: "onerror" }).waitFor();
  for (const p of [page, live.page]) {
    assert.equal(await p.evaluate(() => globalThis.hit), undefined);
    assert.equal(await p.locator('img[src="x"], main script').count(), 0);
  }
  await live.close();
  await close();
});

test("a longest text is made to fit", forced, async () => {
  for (const size of Object.keys(SIZES)) {
    const { page, close } = await open("/", { size });
    const long = "Please go to the desk that is called by its very long name and bring everything with you. ".repeat(4).trim();
    fake.enter("desk_3", { advice: { id: "desk_3", lang: "en", text: long } });
    await scene(page, "advice");
    await settle(page);
    assert.deepEqual(await misfits(page, TOUCH_PX_MIN), [], size);
    await calm(page);
    fake.answers = false;
    await page.keyboard.type("w".repeat(300));
    await page.keyboard.press("Enter");
    await scene(page, "hearing");
    await settle(page);
    assert.deepEqual(await misfits(page, TOUCH_PX_MIN), [], size);
    await close();
  }
});

/** The page has read the state again: the server is asked every two seconds. */
const stateRead = (page) => page.waitForResponse((r) => new URL(r.url()).pathname === "/api/state");

test("visitors are told of being seen and heard, in their language", forced, async () => {
  const { page, close } = await open();
  await page.waitForSelector("#notice-line:not([hidden])");
  assert.equal(await text(page, "#notice-line"), "A camera and a microphone are on. Nothing leaves this device.");
  await page.click("#language");
  assert.match(await text(page, "#notice-line"), /^摄像头/);
  await page.click("#open-notice");
  await scene(page, "notice");
  assert.match(await text(page, "#notice-text"), /^摄像头/);
  assert.match(await text(page, "#spoken"), /^摄像头/, "a screen reader says it");
  await page.keyboard.press("Escape");
  await scene(page, "idle");
  assert.equal(await page.evaluate(() => document.documentElement.lang), "zh-Hans", "reading is no end of the visit");

  // From a scene of a visit, and back into it; what is decided meanwhile comes first.
  fake.ask("desk_3", "desk_8");
  await scene(page, "ask");
  await page.click("#open-notice");
  await scene(page, "notice");
  await page.click('[data-key="back"]');
  await scene(page, "ask");
  await page.click("#open-notice");
  await scene(page, "notice");
  fake.enter("desk_8");
  await scene(page, "advice");
  await page.click("#open-notice");
  await scene(page, "notice");
  fake.exit("desk_8");
  await page.waitForTimeout(8500);
  await scene(page, "notice");
  await page.click('[data-key="back"]');
  await scene(page, "idle");

  // In no language of the page: told all the same, and marked as what it is.
  fake.notice = { "fr-CA": "Une caméra est allumée.", empty: " " };
  await page.waitForFunction(() => document.querySelector("#notice-line").lang === "fr-CA");
  assert.equal(await text(page, "#notice-line"), "Une caméra est allumée.");
  for (const none of [undefined, {}, "x"]) {
    fake.notice = none;
    await stateRead(page);
    await page.waitForSelector("#notice-line", { state: "hidden" });
    assert.equal(await page.locator("#open-notice").isVisible(), false);
    fake.notice = { en: "On." };
    await page.waitForSelector("#notice-line:not([hidden])");
  }
  await close();
});

test("a bundle that takes over brings its own texts", forced, async () => {
  const { page, close } = await open();
  const live = await open("/live");
  await live.page.locator(".class", { hasText: "3 (home)" }).waitFor();
  const before = fake.catalogue;
  fake.catalogue = { ...before, classes: before.classes.map((c) => (c.class === "desk_3" ? { ...c, short: { en: "3 (garden)", zh: "3 号（花园）" } } : c)) };
  fake.bundle = "kiosk@1.1.0";
  await page.locator('#grid [data-class="desk_3"] .topic', { hasText: "garden" }).waitFor({ state: "attached" });
  await live.page.locator("#facts", { hasText: "kiosk@1.1.0" }).waitFor();
  await live.page.locator(".class", { hasText: "3 (garden)" }).waitFor();
  fake.catalogue = before;
  await live.close();
  await close();
});

test("a longest notice is whole, at every size and contrast", forced, async () => {
  const longest = {
    en: "This screen has a camera and a microphone. They look for the number you show and listen for the number you say. ".repeat(6).slice(0, 600),
    zh: "本机装有摄像头和麦克风，用来识别您出示的号码和您说出的号码，任何内容都不会离开此设备。".repeat(15).slice(0, 600),
  };
  for (const size of Object.keys(SIZES)) {
    const { page, close } = await open("/", { size });
    fake.notice = longest;
    for (const buttons of [[], ["#language"], ["#contrast"], ["#language", "#contrast"]]) {
      const where = `${size} ${buttons.join(" ")}`;
      await calm(page);
      fake.notice = longest;
      for (const button of buttons) await page.click(button);
      const told = longest[buttons.includes("#language") ? "zh" : "en"];
      await page.waitForFunction((t) => document.querySelector("#notice-line").textContent === t, told);
      await settle(page);
      assert.deepEqual(await misfits(page, TOUCH_PX_MIN), [], `idle ${where}`);
      await page.click("#open-notice");
      await scene(page, "notice");
      await settle(page);
      assert.deepEqual(await misfits(page, TOUCH_PX_MIN), [], where);
      const px = await page.evaluate(() => parseFloat(getComputedStyle(document.querySelector("#notice-text")).fontSize));
      assert.ok(px >= 14, `${where}: letters of ${px} px`);
      await axe(page, where);
    }
    await close();
  }
});

// How it looks

for (const size of Object.keys(SIZES)) {
  test(`nothing is cut off or too small at ${SIZES[size].join(" x ")}`, forced, async () => {
    const { page, close } = await open("/", { size });
    const wrong = [];
    for (const lang of ["en", "zh"]) {
      for (const name of Object.keys(STATES)) {
        await bring(page, name, ...(lang === "zh" ? ["#language"] : []));
        await settle(page);
        wrong.push(...(await misfits(page, TOUCH_PX_MIN)).map((w) => `${lang} ${name}: ${w}`));
        if (SHOTS && lang === "en" && ["idle", "advice"].includes(name)) {
          await page.screenshot({ path: join(IMAGES, `web-${name}-${SIZES[size].join("x")}.png`) });
        }
      }
    }
    assert.deepEqual(wrong, []);
    await close();
  });
}

for (const lang of ["en", "zh"]) {
  for (const contrast of ["normal", "more"]) {
    test(`axe finds nothing: ${lang}, ${contrast} contrast`, forced, async () => {
      const { page, close } = await open();
      for (const name of Object.keys(STATES)) {
        await bring(page, name, ...(lang === "zh" ? ["#language"] : []), ...(contrast === "more" ? ["#contrast"] : []));
        await axe(page, name);
      }
      await close();
    });
  }
}

test("wishes of the device are kept: more contrast, less motion", forced, async () => {
  const { page, close } = await open("/", { contrast: "more", reducedMotion: "reduce" });
  assert.equal(await page.getAttribute("#contrast", "aria-pressed"), "true");
  await bring(page, "advice");
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(0, 0, 0)");
  const moving = await page.evaluate(() => document.getAnimations().filter((a) => a instanceof CSSAnimation).length);
  assert.equal(moving, 0);
  await close();
});

test("by keyboard: every scene has a focus that is seen, in reading order", forced, async () => {
  const { page, close } = await open();
  const order = [];
  for (let i = 0; i < 5; i += 1) {
    await page.keyboard.press("Tab");
    order.push(await page.evaluate(() => document.activeElement.id || document.activeElement.dataset.key));
    assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none");
  }
  assert.deepEqual(order, ["open-notice", "contrast", "language", "open-type", "all_desks"]);
  await page.keyboard.press("Enter");
  await scene(page, "desks");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.class), "desk_0");
  await page.keyboard.press("Escape");
  await scene(page, "idle");
  await close();
});

for (const size of Object.keys(SIZES)) {
  test(`nothing jumps when something appears at ${SIZES[size].join(" x ")}`, forced, async () => {
    const { page, close } = await open("/", { size });
    await page.waitForSelector("#notice-line:not([hidden])");
    await page.evaluate(() => {
      globalThis.shifts = [];
      // What moves within half a second of a touch or a key is what the visitor asked for, as everywhere where this is measured.
      const count = (found) => globalThis.shifts.push(...found.getEntries().filter((e) => !e.hadRecentInput).map((e) => e.value));
      new PerformanceObserver(count).observe({ type: "layout-shift", buffered: true });
    });
    const taken = async () => {
      await settle(page);
      await page.waitForTimeout(150);
      return page.evaluate(() => globalThis.shifts.splice(0).reduce((a, b) => a + b, 0));
    };
    const shifts = { load: await taken() };
    for (const name of Object.keys(STATES)) {
      await calm(page);
      const before = await taken();
      await STATES[name].go(page);
      await scene(page, STATES[name].at);
      shifts[name] = Math.max(before, await taken());
    }
    // From a scene straight into another one, and a text that grows where it stands.
    await calm(page);
    fake.ask("desk_3", "desk_8");
    await scene(page, "ask");
    await taken();
    fake.enter("desk_8");
    await scene(page, "advice");
    shifts["ask to advice"] = await taken();
    fake.enter("desk_5", { intent: "lost_luggage", weights: { card: 0.1, speech: 0.2, request: 0.7 } });
    await page.waitForFunction(() => document.querySelector("#numeral").textContent === "5");
    shifts["advice to advice"] = await taken();
    const told = Object.entries(shifts).map(([name, value]) => `${name} ${value.toFixed(4)}`);
    console.log(`layout shift at ${size}: ${told.join(", ")}`);
    assert.deepEqual(Object.entries(shifts).filter(([, value]) => value >= SHIFT_MAX), []);
    // The observer works: something that is pushed aside is seen.
    await page.waitForTimeout(600);
    await page.evaluate(() => document.querySelector("#stage").style.setProperty("margin-top", "200px"));
    assert.ok((await taken()) > 0, "a shift that was made on purpose is not seen");
    await close();
  });
}

// Both pages, any server

test("both pages say what they are", async () => {
  for (const path of ["/", "/live"]) {
    const { page, close } = await open(path);
    const head = await page.evaluate(() => ({
      doctype: document.doctype?.name,
      mode: document.compatMode,
      charset: document.characterSet,
      title: document.title,
      lang: document.documentElement.lang,
      description: document.querySelector('meta[name="description"]')?.content ?? "",
      viewport: document.querySelector('meta[name="viewport"]')?.content ?? "",
      headings: document.querySelectorAll("h1").length,
      unsized: [...document.images].filter((i) => !i.hasAttribute("width") || !i.hasAttribute("height") || !i.hasAttribute("alt")).length,
    }));
    assert.deepEqual([head.doctype, head.mode, head.charset, head.unsized], ["html", "CSS1Compat", "UTF-8", 0], path);
    assert.ok(head.title.length >= 5 && head.description.length >= 30 && head.headings >= 1, JSON.stringify(head));
    assert.match(head.lang, /^(en|zh-Hans)$/);
    assert.match(head.viewport, /width=device-width/);
    assert.doesNotMatch(head.viewport, /user-scalable|maximum-scale/, "who needs larger letters may have them");
    await close();
  }
});

test("the page without a scene: accessible, whole, and from one origin", async () => {
  for (const [path, size] of [["/", "portrait"], ["/", "landscape"], ["/", "panel"], ["/live", "landscape"], ["/live", "panel"]]) {
    const { page, bytes, close } = await open(path, { size });
    await page.waitForTimeout(600);
    await axe(page, `${path} ${size}`);
    if (path === "/") assert.deepEqual(await misfits(page, TOUCH_PX_MIN), [], size);
    else assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "scrolls sideways");
    if (path === "/live" && size === "landscape") assert.ok(await page.evaluate(() => document.documentElement.scrollHeight <= innerHeight));
    const total = [...bytes.values()].reduce((a, b) => a + b, 0);
    console.log(`${path} ${size}: ${total} bytes in ${bytes.size} files`);
    assert.ok(bytes.size >= 4 && total <= PAGE_BYTES_MAX, `${total} bytes, expected at most ${PAGE_BYTES_MAX}`);
    await close();
  }
});

test("the integrator sees what the server says, and what it does not", forced, async () => {
  const { page, close } = await open("/live");
  fake.emit({ kind: "start" });
  fake.ask("desk_3", "desk_8");
  fake.enter("desk_3", { weights: { speech: 1 } });
  fake.setModality("card", "failed", "camera: no frame for 2000 ms");
  fake.emit({ kind: "notice", source: "mic", notice: "clipped", reason: "full scale" });
  await page.locator("#log li", { hasText: "full scale" }).waitFor();
  assert.match(await text(page, "#decisions tr:first-child"), /enter\s+desk_3\s+0\.94\s+speech 100 %\s+Please go to desk 3/);
  // as the next frame tells
  await page.locator("#modalities article:first-child", { hasText: /card\s*camera\s*failed\s*camera: no frame for 2000 ms/ }).waitFor();
  await page.locator('.class[data-decided="true"]', { hasText: "3 (home)" }).waitFor();
  assert.match(await text(page, "#facts"), /kiosk@1\.0\.0[\s\S]*avx2[\s\S]*51\.5 °C/);
  for (let i = 0; i < 30; i += 1) fake.exit("desk_3");
  await page.waitForFunction(() => document.querySelector("#decisions tr").textContent.includes("exit"));
  assert.equal(await page.locator("#decisions tr").count(), 20);

  const missing = { temperature_c: null, rss_bytes: undefined, mel: null, stages: null, queues: undefined, fused: null, modalities: { card: null }, clients: "x" };
  fake.telemetryPatch = missing;
  await page.waitForSelector("#stages .none");
  for (const at of ["#fused", "#stages", "#queues", "#mel-none"]) assert.match(await text(page, at), /not available/);
  await axe(page, "live, nothing available");
  await close();
});

test("the camera is seen only if the preview is on, and the page says so", forced, async () => {
  const { page, close } = await open("/live");
  await page.locator("#preview-note", { hasText: "The preview is off" }).waitFor();
  assert.equal(await page.locator("#preview").isVisible(), false);
  assert.equal(fake.previews, 0, "and asks for none");
  fake.preview = true;
  await page.locator("#preview-note", { hasText: "The preview is on: pictures leave" }).waitFor();
  assert.equal(await page.locator("#preview").isVisible(), true);
  assert.equal(await page.evaluate(() => document.querySelector("#preview").width), 1);
  await axe(page, "live, with a picture");
  assert.ok(await page.evaluate(() => document.documentElement.scrollHeight <= innerHeight), "scrolls");
  fake.noPicture = "camera is muted";
  await page.locator("#preview-note", { hasText: "there is no picture: camera is muted" }).waitFor();
  assert.equal(await page.locator("#preview").isVisible(), false);
  assert.equal(await page.evaluate(() => document.querySelector("#preview").width), 0, "the last picture is not kept");
  fake.token = "another";
  await page.locator("#preview-note", { hasText: "needs the token" }).waitFor();
  fake.token = null;
  await close(/status of (401|503)/);
});

test(`from the event to the pixel: ${EVENTS} events`, { ...forced, timeout: 60_000 }, async () => {
  const { page, close } = await open();
  let arrived;
  await page.exposeFunction("pixel", (n, at) => arrived(n, at));
  await page.evaluate(() => {
    const read = () => {
      const n = Number(/^event (\d+)$/.exec(document.querySelector("#advice-text").textContent)?.[1] ?? -1);
      // The first frame after the change carries it to the screen; the second begins when that one is done.
      requestAnimationFrame(() => requestAnimationFrame(() => globalThis.pixel(n, Date.now())));
    };
    new MutationObserver(read).observe(document.querySelector("#advice-text"), { childList: true, characterData: true, subtree: true });
  });
  const ms = [];
  for (let n = 0; n < EVENTS; n += 1) {
    const sent = Date.now();
    const seen = new Promise((done) => (arrived = (m, at) => m === n && done(at)));
    fake.enter(`desk_${n % 10}`, { advice: { id: "x", lang: "en", text: `event ${n}` } });
    ms.push((await seen) - sent);
    // Not in step with the frames of the screen.
    await new Promise((done) => setTimeout(done, (n * 7) % 40));
  }
  ms.sort((a, b) => a - b);
  const p99 = ms[Math.ceil(0.99 * EVENTS) - 1];
  console.log(`event to pixel over ${EVENTS} events: p50 ${ms[EVENTS / 2 - 1]} ms, p99 ${p99} ms, largest ${ms.at(-1)} ms`);
  assert.ok(p99 <= PIXEL_MS_MAX, `p99 ${p99} ms, expected at most ${PIXEL_MS_MAX}`);
  await close();
});

test("the stream reader takes any cut of the bytes, every end of line, and no endless line", forced, async () => {
  const { page, close } = await open();
  const got = await page.evaluate(async () => {
    const { SseParser } = await import("/assets/common.js");
    const whole = ": hi\r\n\r\nid: 7\r\nevent: gap\r\ndata: {\"a\":\rdata: 1}\n\ndata:x\n\nid\ndata: \u4e2d\n\n";
    const runs = [];
    for (let size = 1; size <= whole.length; size += 1) {
      const out = [];
      const parser = new SseParser((e) => out.push(e));
      for (let i = 0; i < whole.length; i += size) parser.push(whole.slice(i, i + size));
      runs.push(JSON.stringify(out));
    }
    let threw = false;
    try {
      const parser = new SseParser(() => {});
      for (let i = 0; i < 3; i += 1) parser.push("x".repeat(600_000));
    } catch {
      threw = true;
    }
    return { runs: [...new Set(runs)], threw };
  });
  assert.ok(got.threw);
  assert.equal(got.runs.length, 1, got.runs.join("\n"));
  assert.deepEqual(JSON.parse(got.runs[0]), [
    { type: "gap", data: '{"a":\n1}', id: "7" },
    { type: "message", data: "x", id: "7" },
    { type: "message", data: "中", id: "" },
  ]);
  await close();
});

if (SHOTS) {
  test("pictures for the documentation", async () => {
    const { page, close } = await open("/", { size: "portrait" });
    await bring(page, "ask");
    await settle(page);
    await page.screenshot({ path: join(IMAGES, "web-ask-1080x1920.png") });
    await close();
    const zh = await open("/", { size: "landscape" });
    await zh.page.click("#language");
    fake.enter("desk_5", { intent: "lost_luggage", weights: { card: 0.08, speech: 0.21, request: 0.71 } });
    await scene(zh.page, "advice");
    await settle(zh.page);
    await zh.page.screenshot({ path: join(IMAGES, "web-advice-zh-1920x1080.png") });
    await zh.close();
    const live = await open("/live");
    demo(fake, (ms) => new Promise((done) => setTimeout(done, ms / 2).unref()));
    await live.page.waitForTimeout(62_000);
    await live.page.screenshot({ path: join(IMAGES, "web-live-1920x1080.png") });
    await live.close();
  });
}
