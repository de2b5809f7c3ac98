"use strict";
// A sweep by layer, as bars, and a grid of two settings, as a heat map.

function reveal(id) {
  byId(id).hidden = false;
  byId(`to-${id}`).hidden = false;
}

function showLayers(data) {
  const measures = measuresOf(data);
  if (!data.layers.length || !measures.length) return;
  reveal("layers");
  byId("layers").append(
    make("p", { class: "intro" }, "Each of these experiments steers one layer alone. Bars begin at the accuracy before training, the dotted line; thin lines are 95\u202f% intervals of the accuracy after training. Without a benchmark, bars begin at 0."),
    ...byMeasure("layer-measure", measures, (measure) => layerPanel(data, measure)));
}

function layerPanel(data, { title, unit, format, read, bounds, base }) {
  const rows = data.layers.map(([layer, number]) => {
    const row = data.experiments[number], around = bounds(row);
    return { layer, number, name: row.name, value: read(row), low: around?.[0], high: around?.[1], base: base(row) };
  });
  const known = rows.filter((row) => isNumber(row.value));
  if (!known.length) return missing("No layer has been measured yet.");
  const line = d3.mean(rows.filter((row) => isNumber(row.base)), (row) => row.base) ?? null;
  const told = `${title} by layer: ${known.map((row) => `${row.layer}: ${format(row.value)}`).join(", ")}.${line === null ? "" : ` Before training: ${format(line)}.`}`;
  const reading = make("span", { class: "reading" });
  const best = d3.greatest(known, (row) => row.value);
  const tell = (row) => reading.replaceChildren(make("span", {}, `layer ${row.layer}`), make("b", {}, format(row.value)),
    isNumber(row.low) ? make("small", {}, interval(row.low, row.high, format)) : "");
  tell(best);
  return panel("panel wide", title, reading,
    responsive((width) => layerPicture(known, { line, unit, format, width, layers: rows.map((row) => row.layer), tell: (row) => tell(row ?? best) }), told),
    make("div", { class: "foot" }, make("p", { class: "note" }, line === null ? "one experiment per layer" : `dotted: ${format(line)} before training`),
      pictureTools(`${title} by layer`, [{ name: title, x: known.map((row) => row.layer), y: known.map((row) => row.value), low: known.map((row) => row.low), high: known.map((row) => row.high) }])));
}

function layerPicture(rows, { line, unit, format, width, layers, tell }) {
  const from = line ?? 0;
  const y = linearScale([from, ...rows.flatMap((row) => [row.value, row.low, row.high])], format);
  const every = Math.ceil(layers.length / Math.max(4, Math.min(24, width / 28)));
  const ticks = layers.filter((_, k) => k % every === 0);
  const fill = (row) => (row.value < from ? "var(--c2)" : "var(--c1)");
  const picture = plot({
    width, height: 280, marginLeft: leftOf(y), x: { type: "band", domain: layers, padding: layers.length > 40 ? 0.15 : 0.3 }, y: scaleOf(y),
    marks: [
      ...axes({ x: { ticks, tickFormat: String }, y, xName: "layer", yName: unit }),
      Plot.barY(rows, { x: "layer", y1: () => from, y2: "value", fill, fillOpacity: 0.75, title: (row) => `${row.name}: ${format(row.value)}` }),
      Plot.ruleX(rows.filter((row) => isNumber(row.low)), { x: "layer", y1: "low", y2: "high", stroke: "var(--ink)", strokeWidth: 1.25 }),
      Plot.ruleY([from], line === null ? { stroke: "var(--edge)" } : { stroke: "var(--ink)", strokeDasharray: "2,3" }),
    ],
  });
  const scale = picture.scale("x");
  picture.addEventListener("pointermove", (event) => {
    const x = event.offsetX * Number(picture.getAttribute("width")) / picture.clientWidth;
    const row = rows.find(({ layer }) => Math.abs(scale.apply(layer) + scale.bandwidth / 2 - x) <= scale.step / 2);
    tell(row);
    emphasis.set(row?.number ?? null);
  });
  picture.addEventListener("pointerleave", () => { tell(null); emphasis.set(null); });
  return picture;
}

function showGrid(data) {
  const measures = measuresOf(data);
  if (!data.grid || !measures.length) return;
  const [down, across] = data.grid.keys.map((key) => data.keys.find(([name]) => name === key)?.[1] ?? key);
  reveal("grid");
  byId("grid").append(
    make("p", { class: "intro" }, `Rows are values of ${data.grid.keys[0]}, columns those of ${data.grid.keys[1]}. The strongest colour has the highest value. Small figures are 95\u202f% intervals.`),
    ...byMeasure("grid-measure", measures, (measure) => gridTable(data, measure, down, across)));
}

function gridTable({ experiments, grid }, { title, format, read, bounds }, down, across) {
  const [low, high] = d3.extent(grid.cells.flat().filter((number) => number !== null).map((number) => read(experiments[number])).filter(isNumber));
  const cell = (number) => {
    const row = number === null ? null : experiments[number], value = row && read(row);
    if (!row || !isNumber(value)) return { value: make("span", { class: "token number" }, row && row.status !== "ended" ? row.status : "\u2013"), class: "heat" };
    const around = bounds(row);
    const box = emphasizes(make("span", { class: "token number", title: `${row.name}: ${format(value)}` }, format(value),
      around ? make("small", {}, interval(...around, (bound) => format(bound).replace("\u202f%", ""))) : null), number);
    box.style.backgroundColor = heat(high > low ? (value - low) / (high - low) : 0.5);
    return { value: box, class: "heat" };
  };
  const rows = grid.rows.map((name, k) => [shortened(name), ...grid.cells[k].map(cell)]);
  return withTools(makeTable(`${title}: ${down} by ${across}`, [`${down} / ${across}`, ...grid.columns.map(shortened)], rows), title);
}
