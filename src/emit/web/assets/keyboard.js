// The on-screen keyboard: writes into a text field, and leaves the focus there, so that a real keyboard or an input method
// works in the same field at the same time. What the text is for, it does not know.

import { el } from "./common.js";

const ROWS = ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"];

/** Fills `board` with keys for `field`; `onSend` and `onClose` are the two keys that do not write. */
export function keyboard(board, field, { texts, onSend, onClose }) {
  const key = (label, press, props = {}) => {
    const button = el("button", { type: "button", className: "key", tabIndex: -1, ...props }, label);
    // A key that took the focus would end a composition of an input method.
    button.addEventListener("pointerdown", (event) => event.preventDefault());
    button.addEventListener("click", press);
    return button;
  };
  const edit = (text, back = 0) => {
    const { selectionStart: start, selectionEnd: end } = field;
    const from = start === end ? Math.max(0, start - back) : start;
    if (field.value.length - (end - from) + text.length > field.maxLength) return;
    field.setRangeText(text, from, end, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const rows = ROWS.map((row) => [...row].map((c) => key(c, () => edit(c))));
  // A character beyond the basic plane is two units: half of one must not stay behind.
  const back = () => edit("", /[\uDC00-\uDFFF]/.test(field.value[field.selectionStart - 1] ?? "") ? 2 : 1);
  rows[3].push(key("⌫", back, { className: "key wide", "aria-label": texts("key_back") }));
  rows.push([
    key(texts("key_close"), onClose, { id: "key-close", className: "key wide quiet" }),
    key("’", () => edit("'"), { "aria-label": "'" }),
    key(texts("key_space"), () => edit(" "), { id: "key-space", className: "key space" }),
    key(",", () => edit(",")),
    key(".", () => edit(".")),
    key("?", () => edit("?")),
    key(texts("key_send"), onSend, { id: "key-send", className: "key wide send" }),
  ]);
  board.replaceChildren(...rows.map((keys) => el("div", { className: "keys" }, ...keys)));

  // One stop for the tab key, arrows within: forty stops would stand between the field and the rest of the page.
  rows[4].at(-1).tabIndex = 0;
  board.onkeydown = (event) => {
    const y = rows.findIndex((row) => row.includes(event.target));
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (y < 0 || !step) return;
    event.preventDefault();
    const row = rows[Math.min(rows.length - 1, Math.max(0, y + step[1]))];
    const x = rows[y].indexOf(event.target) + step[0];
    const next = row[Math.min(row.length - 1, Math.max(0, x))];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
}
