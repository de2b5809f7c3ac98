"use strict";
// Pictures, drawn by Observable Plot. Colours are the page's own variables, so that dark mode needs no redrawing.

const SERIES_COLOURS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
const colourOf = (k) => SERIES_COLOURS[k % SERIES_COLOURS.length];

/** A picture as wide as its box, drawn again when the box or the view changes. `draw(width)` returns an SVG. */
function responsive(draw, label) {
  const box = make("div", { class: "picture" });
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(box.clientWidth);
    if (width < 50 || width === drawn) return;
    drawn = width;
    const picture = draw(width);
    // the label below describes the picture; the labels that Plot gives to its parts are not needed
    for (const part of picture.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", label);
    box.replaceChildren(picture);
  };
  new ResizeObserver(redraw).observe(box);
  view.listeners.add(() => { drawn = 0; redraw(); });
  return box;
}

const PICTURE_STYLE = { background: "none", color: "var(--muted)", fontFamily: "inherit", fontSize: "11px" };
const MARGINS = { marginTop: 20, marginRight: 18, marginBottom: 38, marginLeft: 44 }; // with space for the axes' names

/** Options of all pictures: the page's type and colours, a light grid, and no box. */
function plot(options) {
  return Plot.plot({ ...MARGINS, ...options, style: { ...PICTURE_STYLE, overflow: "visible" } });
}

const GRID = { stroke: "var(--line)", strokeOpacity: 1 };
const AXIS = { tickSize: 0, labelArrow: "none" };

/** A linear scale for these values: domain, ticks, and a format in which all ticks differ. */
function linearScale(values, format, count = 4) {
  let [low, high] = d3.extent(values.filter(isNumber));
  if (low === undefined) [low, high] = [0, 1];
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 2, low + Math.abs(low) / 2];
  const domain = d3.nice(low, high, count);
  const step = d3.tickStep(...domain, count);
  return { domain, ticks: d3.ticks(...domain, count), tickFormat: scaled(format, ticksFormat(format === percent ? 100 * step : step, true)) };
}

/** A log scale for the values above 0; null if there are none. */
function logScale(values, format) {
  const [low, high] = d3.extent(values.filter((value) => isNumber(value) && value > 0));
  if (low === undefined) return null;
  const domain = low === high ? [low / 2, low * 2] : [low, high];
  const powers = d3.range(Math.ceil(Math.log10(domain[0])), Math.floor(Math.log10(domain[1])) + 1).map((k) => 10 ** k);
  const every = Math.ceil(powers.length / 5);
  const ticks = powers.length > 1 ? powers.filter((_, k) => k % every === 0) : d3.ticks(...domain, 4).filter((tick) => tick > 0);
  return { type: "log", domain, ticks, tickFormat: scaled(format, short) };
}

const scaled = (format, shown) => (format === percent ? (value) => `${shown(100 * value)}\u202f%` : shown);

/** Grid and axes with their names; `x` and `y` are scales of `linearScale` or `logScale`. */
function axes({ x, y, xName, yName }) {
  return [
    Plot.gridY({ ...GRID, ticks: y.ticks }),
    Plot.axisY({ ...AXIS, label: yName, ticks: y.ticks, tickFormat: y.tickFormat }),
    Plot.axisX({ ...AXIS, label: xName, labelAnchor: "center", ticks: x.ticks, tickFormat: x.tickFormat }),
  ];
}

/** Space for the names of a scale's ticks, to the left of a picture. */
const leftOf = ({ ticks, tickFormat }) => Math.max(MARGINS.marginLeft, 10 + 6.4 * d3.max(ticks, (tick) => tickFormat(tick).length));

const scaleOf = ({ type, domain }) => ({ type: type ?? "linear", domain });

/** Each step as a thin line, means as a strong line; ranges as a band; a few measurements as dots with intervals. */
function marksOf(line, dots, log, numLines) {
  const colour = colourOf(line.number), xs = places(line);
  const points = d3.range(line.x.length);
  const x = (k) => xs[k];
  const y = (values) => (k) => (log && !(values[k] > 0) ? NaN : values[k]);
  const strong = { x, stroke: colour, strokeWidth: 1.75, strokeLinejoin: "round", strokeDasharray: DASHES[Math.floor(line.number / 5) % 3] };
  if (dots && points.length <= 60) {
    return [
      line.low ? Plot.ruleX(points, { x, y1: y(line.low), y2: y(line.high), stroke: colour, strokeWidth: numLines > 1 ? 2 : 5, strokeOpacity: numLines > 1 ? 0.5 : 0.28 }) : null,
      Plot.lineY(points, { ...strong, y: y(line.y) }),
      Plot.dot(points, { x, y: y(line.y), fill: colour, r: 3 }),
    ];
  }
  if (line.low) {
    return [
      Plot.areaY(points, { x, y1: y(line.low), y2: y(line.high), fill: colour, fillOpacity: numLines > 2 ? 0.08 : 0.2 }),
      Plot.lineY(points, { ...strong, y: y(line.y) }),
    ];
  }
  return [
    // with several runs, lines of single steps would hide the other runs' means
    Plot.lineY(points, { x, y: y(line.y), stroke: colour, strokeOpacity: numLines > 1 ? 0.2 : 0.5, strokeWidth: 1 }),
    Plot.lineY(points, { ...strong, y: y(line.smooth ?? line.y) }),
  ];
}

const DASHES = [null, "6,3", "2,3"]; // after five colours

function swatch(number) {
  return make("span", { class: "swatch", "data-colour": number % 5, "data-dash": Math.floor(number / 5) % 3 });
}

/** Names of coloured lines. */
function legend(entries) {
  return make("ul", { class: "legend" }, entries.map(([number, name]) => make("li", {}, swatch(number), name)));
}

// ---- heat

/** Colour of a cell: warm above 0, cool below; `part` is from -1 to 1. */
function heat(part) {
  const share = Math.round(Math.min(1, Math.abs(part)) * 100);
  return `color-mix(in oklab, var(${part < 0 ? "--cool" : "--warm"}) ${share}%, var(--surface))`;
}

/** A square of numbers from -1 to 1, for each pair of layers. */
function squareHeat(values, names, label) {
  const cells = values.flatMap((row, j) => row.map((value, i) => ({ x: names[i], y: names[j], value })));
  const few = names.length <= 12;
  const draw = (width) => {
    const size = Math.min(width, 80 + Math.max(160, 28 * names.length), 520);
    const every = Math.ceil(names.length / 12);
    const ticks = names.filter((_, k) => k % every === 0);
    return plot({
      width: size, height: size, marginRight: 4, padding: few ? 0.06 : 0,
      x: { domain: names }, y: { domain: names },
      marks: [
        Plot.cell(cells, { x: "x", y: "y", fill: (d) => heat(d.value), rx: few ? 3 : 0,
          title: (d) => `layers ${d.y} and ${d.x}: ${decimal(d.value)}` }),
        few ? Plot.text(cells, { x: "x", y: "y", text: (d) => decimal(d.value), fill: "var(--ink)" }) : null,
        Plot.axisX({ ...AXIS, label: "layer", labelAnchor: "center", ticks }),
        Plot.axisY({ ...AXIS, label: "layer", ticks }),
      ],
    });
  };
  return responsive(draw, label);
}

/** Bars, one for each name along an axis. */
function bars(names, values, { format, label, xName, yName }) {
  const points = d3.range(names.length);
  const every = Math.ceil(names.length / 12);
  const y = linearScale([0, ...values], format);
  const draw = (width) => plot({
    width, height: 186, marginLeft: leftOf(y), x: { domain: names, padding: 0.25 }, y: scaleOf(y),
    marks: [
      ...axes({ x: { ticks: names.filter((_, k) => k % every === 0) }, y, xName, yName }),
      Plot.barY(points, { x: (k) => names[k], y: (k) => values[k], fill: "var(--c1)", rx: 2,
        title: (k) => `${xName} ${names[k]}: ${format(values[k])}` }),
    ],
  });
  return responsive(draw, label);
}

/** Values with intervals, one per row, with a line at `mark`, which is the first row's value unless another is given. */
function intervalRows(rows, format, label, { name = "accuracy", mark = rows[0].value } = {}) {
  const left = Math.min(150, 14 + 6.4 * d3.max(rows, (row) => row.name.length));
  const x = linearScale(rows.flatMap((row) => [row.value, row.low, row.high]), format, 5);
  const draw = (width) => plot({
    width, height: 48 + 30 * rows.length, marginTop: 8, marginLeft: left, marginRight: 24,
    x: { domain: x.domain }, y: { domain: rows.map((row) => row.name), padding: 0.5 },
    marks: [
      Plot.gridX({ ...GRID, ticks: x.ticks }),
      Plot.axisX({ ...AXIS, label: name, labelAnchor: "center", ticks: x.ticks, tickFormat: x.tickFormat }),
      Plot.axisY({ label: null, tickSize: 0, fill: "var(--ink)" }),
      Plot.ruleX([mark], { stroke: "var(--muted)", strokeDasharray: "2,3" }),
      Plot.ruleY(rows.filter((row) => isNumber(row.low)), { y: "name", x1: "low", x2: "high", stroke: (row) => row.colour, strokeWidth: 6, strokeOpacity: 0.3, strokeLinecap: "round" }),
      Plot.dot(rows, { y: "name", x: "value", r: 4.5, fill: (row) => row.colour,
        title: (row) => `${row.name}: ${format(row.value)}` }),
    ],
  });
  return responsive(draw, label);
}
