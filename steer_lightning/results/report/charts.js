"use strict";
// Pictures, drawn by Observable Plot. Colours are the page's own variables, so that dark mode needs no redrawing.

const SERIES_COLOURS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
const colourOf = (k) => SERIES_COLOURS[k % SERIES_COLOURS.length];

/** A picture as wide as its box: drawn again where the box changes. `draw(width)` gives an SVG. */
function responsive(draw, label) {
  const box = make("div", { class: "picture" });
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(box.clientWidth);
    if (width < 50 || width === drawn) return;
    drawn = width;
    const picture = draw(width);
    // the label below says it all; those that Plot gives to the parts are not for a picture
    for (const part of picture.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", label);
    box.replaceChildren(picture);
  };
  new ResizeObserver(redraw).observe(box);
  return box;
}

const PICTURE_STYLE = { background: "none", color: "var(--muted)", fontFamily: "inherit", fontSize: "11px" };

/** What all pictures have: the page's type and colours, a light grid, and no box around it. */
function plot(options) {
  return Plot.plot({
    marginTop: 8, marginRight: 18, marginBottom: 24, marginLeft: 44,
    ...options,
    style: { ...PICTURE_STYLE, overflow: "visible" },
  });
}

const gridY = () => Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 4 });
const axisY = (format) =>
  Plot.axisY({ label: null, tickSize: 0, ticks: 4, tickFormat: format === percent ? percentOnAxis : onAxis });
const axes = (format) => [
  gridY(), axisY(format), Plot.axisX({ label: null, tickSize: 0, ticks: 5, tickFormat: whole }),
];

// ---- a cursor that all curves share: the step that is looked at

const cursor = {
  step: null,
  listeners: new Set(),
  set(step) {
    if (step === this.step) return;
    this.step = step;
    for (const listener of this.listeners) listener(step);
  },
};

/** Index of the x that is nearest. */
function nearest(xs, step) {
  const k = d3.bisectCenter(xs, step);
  return Math.min(Math.max(k, 0), xs.length - 1);
}

/** A vertical line at the cursor, over a picture with a scale x in steps; pointing moves the cursor. */
function followCursor(picture, snap) {
  const scale = picture.scale("x");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", 4);
  line.setAttribute("y2", Number(picture.getAttribute("height")) - 24);
  picture.append(line);
  const show = (step) => {
    const x = step === null ? null : scale.apply(step);
    line.toggleAttribute("hidden", x === null);
    if (x !== null) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
  };
  picture.addEventListener("pointermove", (event) => {
    const step = scale.invert(event.offsetX * Number(picture.getAttribute("width")) / picture.clientWidth);
    cursor.set(Math.round(snap(step)));
  });
  show(cursor.step);
  return show;
}

/** A panel: name, the value at the cursor, and a curve. `lines` have x, y and perhaps low, high, smooth. */
function curvePanel({ title, note, lines, format, domain, height = 150, dots = false }) {
  const reading = make("span", { class: "reading" });
  let show = null;
  const text = (step) => {
    const found = lines.map((line) => {
      const k = step === null ? line.x.length - 1 : nearest(line.x, step);
      return { line, k };
    });
    reading.replaceChildren(...found.flatMap(({ line, k }) => [
      lines.length > 1 ? make("span", { class: "swatch", "data-colour": line.number }) : null,
      make("b", {}, format(line.y[k])),
      dots && line.low && isNumber(line.low[k]) ? make("small", {}, interval(line.low[k], line.high[k], format)) : null,
    ]).filter((part) => part !== null),
    make("small", {}, stepText(found[0].line, found[0].k)));
  };
  cursor.listeners.add((step) => { text(step); if (show) show(step); });
  text(cursor.step);
  const draw = (width) => {
    const picture = plot({
      width, height,
      x: { domain },
      y: { nice: true },
      marks: [...axes(format), ...lines.flatMap((line) => marksOf(line, dots))],
    });
    show = followCursor(picture, (step) => lines[0].x[nearest(lines[0].x, step)]);
    return picture;
  };
  return make("figure", { class: "panel" },
    make("figcaption", {}, make("span", { class: "name" }, title), reading),
    responsive(draw, describe(title, lines, format)),
    lines.length > 1 ? legend(lines.map((line) => [line.number, line.name])) : null,
    note ? make("p", { class: "note" }, note) : null);
}

function stepText(line, k) {
  const half = ((line.width ?? 1) - 1) / 2;
  return half ? `steps ${whole(line.x[k] - half)}\u2013${whole(line.x[k] + half)}` : `step ${whole(line.x[k])}`;
}

/** The curve in words, for those who can't see it. */
function describe(title, lines, format) {
  return lines.map((line) => {
    const last = line.y.length - 1;
    const name = lines.length > 1 ? `${title}, ${line.name}` : title;
    return `${name}: ${format(line.y[0])} at ${stepText(line, 0)}, ${format(line.y[last])} at ${stepText(line, last)}, `
      + `lowest ${format(d3.min(line.y))}, highest ${format(d3.max(line.y))}.`;
  }).join(" ");
}

/** Each step thin, a mean of some strong; ranges as a band; of a few measurements dots with intervals. */
function marksOf(line, dots) {
  const colour = colourOf(line.number);
  const points = d3.range(line.x.length);
  const x = (k) => line.x[k];
  const y = (values) => (k) => values[k];
  const strong = { x, stroke: colour, strokeWidth: 1.75, strokeLinejoin: "round" };
  if (dots && points.length <= 60) {
    return [
      line.low ? Plot.ruleX(points, { x, y1: y(line.low), y2: y(line.high), stroke: colour, strokeWidth: 5, strokeOpacity: 0.28 }) : null,
      Plot.lineY(points, { ...strong, y: y(line.y) }),
      Plot.dot(points, { x, y: y(line.y), fill: colour, r: 3 }),
    ];
  }
  if (line.low) {
    return [
      Plot.areaY(points, { x, y1: y(line.low), y2: y(line.high), fill: colour, fillOpacity: 0.2 }),
      Plot.lineY(points, { ...strong, y: y(line.y) }),
    ];
  }
  return [
    Plot.lineY(points, { x, y: y(line.y), stroke: colour, strokeOpacity: 0.5, strokeWidth: 1 }),
    Plot.lineY(points, { ...strong, y: y(line.smooth ?? line.y) }),
  ];
}

/** Names of coloured lines. */
function legend(entries) {
  return make("ul", { class: "legend" },
    entries.map(([number, name]) => make("li", {}, make("span", { class: "swatch", "data-colour": number % 5 }), name)));
}

// ---- heat

/** How strongly a cell is coloured: warm for what is above 0, cool below; `part` is from -1 to 1. */
function heat(part) {
  const share = Math.round(Math.min(1, Math.abs(part)) * 100);
  return `color-mix(in oklab, var(${part < 0 ? "--cool" : "--warm"}) ${share}%, var(--surface))`;
}

/** A square of numbers from -1 to 1 by layer and layer. */
function squareHeat(values, names, label) {
  const cells = values.flatMap((row, j) => row.map((value, i) => ({ x: names[i], y: names[j], value })));
  const few = names.length <= 12;
  const draw = (width) => {
    const size = Math.min(width, 80 + Math.max(160, 28 * names.length), 520);
    const every = Math.ceil(names.length / 12);
    const ticks = names.filter((_, k) => k % every === 0);
    return plot({
      width: size, height: size, marginLeft: 36, marginTop: 4, marginRight: 4, padding: few ? 0.06 : 0,
      x: { domain: names }, y: { domain: names },
      marks: [
        Plot.cell(cells, { x: "x", y: "y", fill: (d) => heat(d.value), rx: few ? 3 : 0,
          title: (d) => `layers ${d.y} and ${d.x}: ${decimal(d.value)}` }),
        few ? Plot.text(cells, { x: "x", y: "y", text: (d) => decimal(d.value), fill: "var(--ink)" }) : null,
        Plot.axisX({ label: null, tickSize: 0, ticks }),
        Plot.axisY({ label: null, tickSize: 0, ticks }),
      ],
    });
  };
  return responsive(draw, label);
}

/** Bars, one a layer. */
function layerBars(layers, values, format, label) {
  const points = d3.range(layers.length);
  const every = Math.ceil(layers.length / 12);
  const draw = (width) => plot({
    width, height: 170, x: { domain: layers, padding: 0.25 },
    marks: [
      gridY(),
      axisY(format),
      Plot.barY(points, { x: (k) => layers[k], y: (k) => values[k], fill: "var(--c1)", rx: 2,
        title: (k) => `layer ${layers[k]}: ${format(values[k])}` }),
      Plot.axisX({ label: null, tickSize: 0, ticks: layers.filter((_, k) => k % every === 0) }),
    ],
  });
  return responsive(draw, label);
}

/** Values with intervals, one a row, against the first row's. */
function intervalRows(rows, format, label) {
  const left = Math.min(150, 14 + 6.4 * d3.max(rows, (row) => row.name.length));
  const draw = (width) => plot({
    width, height: 34 + 30 * rows.length, marginLeft: left, marginRight: 24,
    x: { nice: true }, y: { domain: rows.map((row) => row.name), padding: 0.5 },
    marks: [
      Plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
      Plot.axisX({ label: null, tickSize: 0, ticks: 5, tickFormat: percentOnAxis }),
      Plot.axisY({ label: null, tickSize: 0, fill: "var(--ink)" }),
      Plot.ruleX([rows[0].value], { stroke: "var(--muted)", strokeDasharray: "2,3" }),
      Plot.ruleY(rows.filter((row) => isNumber(row.low)), { y: "name", x1: "low", x2: "high", stroke: (row) => row.colour, strokeWidth: 6, strokeOpacity: 0.3, strokeLinecap: "round" }),
      Plot.dot(rows, { y: "name", x: "value", r: 4.5, fill: (row) => row.colour,
        title: (row) => `${row.name}: ${format(row.value)}` }),
    ],
  });
  return responsive(draw, label);
}
