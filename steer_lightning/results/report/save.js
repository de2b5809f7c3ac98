"use strict";
// Buttons that copy or download what the page shows. Nothing leaves the browser: files are made from data in the page.

/** A file name of plain letters: the name of a run must not lead out of the downloads folder. */
const fileName = (text, ending) => `${text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 80) || "report"}.${ending}`;

function download(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Puts a text on the clipboard; if the browser denies this to pages on disk, by a selection. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { class: "aside", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

const button = (text, label, onclick) => make("button", { type: "button", class: "tool", "aria-label": label, onclick }, text);

/** Buttons to copy and download a text, which `read()` returns on demand. */
function textTools(name, ending, type, read) {
  const copied = button("Copy", `Copy ${name}`, async () => {
    const done = await copy(read());
    copied.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { copied.textContent = "Copy"; }, 1500);
  });
  return make("div", { class: "tools" }, copied,
    button("Download", `Download ${name}`, () => download(fileName(`${pageName} ${name}`, ending), type, read())));
}

let pageName = ""; // name of the run, for file names

/** Rows as CSV. A cell that a spreadsheet would take for a formula begins with an apostrophe. */
function asCsv(rows) {
  const cell = (value) => {
    const text = isNumber(value) ? String(value) : String(value ?? "");
    const safe = !isNumber(value) && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

/** The cells of a table as they are shown: a value, followed by a blank and its interval. */
const shownCells = (box) => [...box.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => {
  const parts = [...(cell.firstElementChild ?? cell).childNodes].map((part) => part.textContent);
  return parts.filter((part) => part).join(" ");
}));

/** A table with buttons that copy it, for a spreadsheet, and download it. */
function withTools(box, name) {
  const clean = (text) => text.replace(/[\t\n]/g, " ").replaceAll("\u2212", "-");
  const cells = () => shownCells(box).map((row) => row.map(clean));
  const copied = textTools(name, "csv", "text/csv", () => asCsv(cells()));
  return make("div", { class: "saved" }, copied, box);
}

/** Curves as CSV: a line for each point. */
function curvesAsCsv(lines) {
  const rows = lines.flatMap((line) => line.x.map((x, k) => [line.name, x, line.time?.[k] ?? "", line.y[k], line.low?.[k] ?? "", line.high?.[k] ?? ""]));
  return asCsv([["name", "step", "time", "value", "low", "high"], ...rows]);
}

/** Buttons of a panel, for its current picture and its numbers. */
function pictureTools(title, lines) {
  const box = make("div", { class: "tools" });
  box.append(
    button("SVG", `Download the picture of ${title}`, () => {
      const picture = box.closest(".panel").querySelector("svg");
      if (picture) download(fileName(`${pageName} ${title}`, "svg"), "image/svg+xml", standalone(picture));
    }),
    button("CSV", `Download the numbers of ${title}`, () => download(fileName(`${pageName} ${title}`, "csv"), "text/csv", curvesAsCsv(lines))));
  return box;
}

/** A picture that works without the page: the page's colours and type are written into it. */
function standalone(picture) {
  const whole = picture.cloneNode(true);
  for (const part of whole.querySelectorAll(".cursor")) part.remove();
  const nodes = picture.querySelectorAll("*:not(.cursor)"), copies = whole.querySelectorAll("*");
  nodes.forEach((node, k) => {
    const style = getComputedStyle(node);
    for (const key of ["fill", "stroke"]) if (node.getAttribute(key)?.includes("var(")) copies[k].setAttribute(key, style[key]);
  });
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const attributes = { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor };
  for (const [key, value] of Object.entries(attributes)) paper.setAttribute(key, value);
  whole.prepend(paper);
  whole.style.color = getComputedStyle(picture).color;
  whole.style.fontFamily = "sans-serif";
  return new XMLSerializer().serializeToString(whole);
}
