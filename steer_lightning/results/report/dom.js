"use strict";
// Elements and numbers. Text of the run goes in as text nodes alone, never as markup.

/** An element with attributes (`class`, `on...` handlers, others) and children, text or nodes. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);

/** Rows of cells under a head; a cell is text, a node, or {value, class}. The first one names its row. */
function makeTable(caption, head, rows) {
  const cell = (content, tag, scope) => {
    const { value, ...rest } = content instanceof Object && "value" in content ? content : { value: content };
    return make(tag, { scope, ...rest }, value ?? "");
  };
  const body = rows.map((row) =>
    make("tr", {}, cell(row[0], "th", "row"), row.slice(1).map((content) => cell(content, "td"))));
  const table = make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, head.map((name) => cell(name, "th", "col")))),
    make("tbody", {}, body));
  return scrollable(table, caption);
}

/** A box that scrolls sideways where its content is wider than the screen, by the keyboard, too. */
function scrollable(content, label) {
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
}

/** Something that is made when it is opened for the first time. */
function disclosure(title, fill) {
  const details = make("details", {}, make("summary", {}, title));
  details.addEventListener("toggle", () => details.append(...[fill()].flat()), { once: true });
  return details;
}

const missing = (...text) => make("p", { class: "missing" }, ...text);
const code = (text) => make("code", {}, text);

// ---- numbers

const MINUS = "\u2212";
const digits = (most, least = 0) =>
  new Intl.NumberFormat("en", { maximumFractionDigits: most, minimumFractionDigits: least });
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const FORMATS = { whole: digits(0), one: digits(1, 1), two: digits(2, 2) };

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const withMinus = (text) => text.replace("-", MINUS);

/** Some digits; `1.2e-6` where that is too small for a plain number. */
function short(value) {
  if (!isNumber(value)) return "\u2013";
  const size = Math.abs(value);
  if (size >= 1000) return withMinus(FORMATS.whole.format(value));
  if (size > 0 && size < 0.001) return withMinus(value.toExponential(1));
  return withMinus(significant.format(value));
}

const whole = (value) => (isNumber(value) ? withMinus(FORMATS.whole.format(value)) : "\u2013");
const decimal = (value) => (isNumber(value) ? withMinus(FORMATS.two.format(value)) : "\u2013");
const one = (value) => (isNumber(value) ? withMinus(FORMATS.one.format(value)) : "\u2013");
const percent = (value) => (isNumber(value) ? `${one(100 * value)}\u202f%` : "\u2013");
const tidy = digits(2);
const onAxis = (value) => withMinus(Math.abs(value) >= 0.01 || value === 0 ? tidy.format(value) : short(value));
const percentOnAxis = (value) => `${tidy.format(100 * value)}\u202f%`;
const signed = (value, format) => (value > 0 ? "+" : "") + format(value);

/** `[low, high]`, or nothing where there is no interval. */
function interval(low, high, format) {
  return isNumber(low) && isNumber(high) ? `[${format(low)}, ${format(high)}]` : null;
}

function duration(seconds) {
  if (!isNumber(seconds)) return "\u2013";
  if (seconds < 100) return `${whole(seconds)} s`;
  if (seconds < 6000) return `${whole(seconds / 60)} min`;
  return `${one(seconds / 3600)} h`;
}

/** A token with its blanks made visible. */
const visible = (token) =>
  String(token).replaceAll(" ", "\u2423").replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5") || "\u2205";
