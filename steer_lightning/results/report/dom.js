"use strict";
// Elements and numbers. Text from the run is inserted only as text nodes, never as markup.

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

/** Rows of cells under a head; a cell is text, a node, or {value, class}. The first cell names its row. */
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

/** A box that scrolls sideways, also by keyboard, if its content is wider than the screen. */
function scrollable(content, label) {
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
}

/** A picture under its name, with what stands beside the name and below the picture; `kind` is "panel" or "panel wide". */
function panel(kind, name, beside, ...below) {
  return make("figure", { class: kind }, make("figcaption", {}, make("span", { class: "name" }, name), beside), ...below);
}

/** Content that is made when it is opened for the first time. */
function disclosure(title, fill) {
  const details = make("details", {}, make("summary", {}, title));
  details.addEventListener("toggle", () => details.append(...[fill()].flat()), { once: true });
  return details;
}

const missing = (...text) => make("p", { class: "missing" }, ...text);
const code = (text) => make("code", {}, text);

// ---- numbers

const MINUS = "\u2212";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const withMinus = (text) => text.replace("-", MINUS);

/** A number with a fixed number of decimals, rounded as in Python: by its exact value, and halves to the even digit. */
function fixed(value, decimals) {
  let text = Math.abs(value).toFixed(decimals);
  const half = Math.abs(value) * 2 ** (decimals + 1); // an odd number exactly if the value is halfway between two
  if (half % 2 === 1) {
    const below = Math.floor(Math.abs(value) * 10 ** decimals);
    text = ((below % 2 ? below + 1 : below) / 10 ** decimals).toFixed(decimals);
  }
  const [units, rest] = text.split(".");
  const shown = units.replace(/\B(?=(\d{3})+$)/g, ",") + (rest ? `.${rest}` : "");
  return value < 0 && Number(text) !== 0 ? MINUS + shown : shown;
}

/** Three significant digits; `1.2e-6` if the value is too small for a plain number. As `rounded` in `system/figures.py`. */
function short(value) {
  if (!isNumber(value)) return "\u2013";
  const size = Math.abs(value);
  if (size > 0 && size < 0.001) return withMinus(value.toExponential(1));
  const decimals = Math.max(0, 2 - (size ? Number(size.toExponential(2).split("e")[1]) : 0));
  const text = fixed(value, size >= 1000 ? 0 : decimals);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const decimalsOf = (count) => (value) => (isNumber(value) ? fixed(value, count) : "\u2013");
const whole = decimalsOf(0), one = decimalsOf(1), decimal = decimalsOf(2);
const percent = (value) => (isNumber(value) ? `${one(100 * value)}\u202f%` : "\u2013");

const magnitude = (value) => Math.floor(Math.log10(value) + 1e-9);

/** A format for ticks at this distance: with just as many digits as distinguish them. */
function ticksFormat(step, compact = false) {
  const size = magnitude(step);
  const clean = (value) => (Math.abs(value) < step / 1e6 ? 0 : value); // sums of steps miss 0 by rounding
  const exponent = (value) => value.toExponential(Math.max(0, magnitude(Math.abs(value)) - size));
  const [unit, letter] = compact && size >= 6 ? [1e6, "M"] : compact && size >= 3 ? [1e3, "k"] : [1, ""];
  return (value) => (clean(value) === 0 ? "0" : size < -4 || size > 8 ? withMinus(exponent(value)) : fixed(value / unit, Math.max(0, -size)) + letter);
}
const signed = (value, format) => (value > 0 ? "+" : "") + format(value);

/** `[low, high]`, or nothing if there is no interval. */
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
