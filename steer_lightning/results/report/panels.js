"use strict";
// Panels of curves that share a cursor, and the switches that all of them follow.

/** Choices of the switches for all curves: time or steps on the horizontal axis, a log or linear vertical scale. */
const view = {
  time: false,
  log: false,
  listeners: new Set(),
  set(key, value) {
    this[key] = value;
    if (key === "time") cursor.set(null);
    for (const listener of this.listeners) listener();
  },
};

// ---- a cursor that all curves share: the current position, in steps or in time

const cursor = {
  place: null,
  listeners: new Set(),
  set(place) {
    if (place === this.place) return;
    this.place = place;
    for (const listener of this.listeners) listener(place);
  },
};

/** Index of the nearest x. */
function nearest(xs, place) {
  const k = d3.bisectCenter(xs, place);
  return Math.min(Math.max(k, 0), xs.length - 1);
}

/** A vertical line at the cursor, over a picture with a scale x; pointing moves the cursor. */
function followCursor(picture, snap) {
  const scale = picture.scale("x");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", MARGINS.marginTop - 4);
  line.setAttribute("y2", Number(picture.getAttribute("height")) - MARGINS.marginBottom);
  picture.append(line);
  const show = (place) => {
    const x = place === null ? null : scale.apply(place);
    line.toggleAttribute("hidden", x === null);
    if (x !== null) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
  };
  picture.addEventListener("pointermove", (event) => {
    cursor.set(snap(scale.invert(event.offsetX * Number(picture.getAttribute("width")) / picture.clientWidth)));
  });
  show(cursor.place);
  return show;
}

/** Horizontal positions of the points of a line: their steps, or their times. */
const places = (line) => (view.time && line.time ? line.time : line.x);

/** A panel: name, the value at the cursor, and a curve. `lines` have x, y and optionally time, low, high, smooth. */
function curvePanel({ title, note, lines, format, unit, axis, height = 166, dots = false }) {
  const reading = make("span", { class: "reading" });
  const left = make("p", { class: "note", hidden: true });
  let show = null;
  const text = (place) => {
    const found = lines.map((line) => ({ line, k: place === null ? line.x.length - 1 : nearest(places(line), place) }));
    const same = new Set(found.map(({ line, k }) => line.x[k])).size === 1;
    reading.replaceChildren(...found.map(({ line, k }) => make("span", { class: "of" },
      lines.length > 1 ? swatch(line.number) : null,
      make("b", {}, format(line.y[k])),
      dots && lines.length < 3 && line.low && isNumber(line.low[k]) ? make("small", {}, interval(line.low[k], line.high[k], format)) : null,
      same ? null : make("small", {}, stepText(line, k)))),
    same ? make("small", {}, stepText(found[0].line, found[0].k)) : "");
  };
  cursor.listeners.add((place) => { text(place); if (show) show(place); });
  text(cursor.place);
  const draw = (width) => {
    const values = lines.flatMap((line) => [...line.y, ...(line.smooth ?? []), ...(line.low ?? []), ...(line.high ?? [])]);
    const log = view.log ? logScale(values, format) : null;
    const y = log ?? linearScale(values, format);
    const x = xScale(axis, width);
    const lost = log ? d3.sum(lines, (line) => d3.sum(line.y, (value) => value <= 0)) : 0;
    left.hidden = !view.log || (log !== null && !lost);
    left.textContent = log ? `${whole(lost)} ${lost === 1 ? "value" : "values"} of 0 or below ${lost === 1 ? "has" : "have"} no place on a log scale` : "no value is above 0: the scale is linear";
    const picture = plot({
      width, height, marginLeft: leftOf(y), x: { domain: x.domain }, y: scaleOf(y),
      marks: [...axes({ x, y, xName: xName(axis), yName: unit }),
        ...lines.flatMap((line) => marksOf(line, dots, log !== null, lines.length))],
    });
    show = followCursor(picture, (place) => { const xs = places(lines[0]); return xs[nearest(xs, place)]; });
    return picture;
  };
  return panel("panel", title, reading,
    responsive(draw, describe(title, lines, format)),
    lines.length > 1 ? legend(lines.map((line) => [line.number, line.name])) : null,
    left, make("div", { class: "foot" }, make("p", { class: "note" }, note ?? ""), pictureTools(title, lines)));
}

/** The switches of the curves: the horizontal axis, and the vertical scale. */
function switches(axis) {
  const choice = (title, name, key, options) => make("fieldset", { class: "choice" }, make("legend", {}, title),
    options.map(([value, text]) => make("label", {},
      make("input", { type: "radio", name, value: String(value), checked: view[key] === value, onchange: () => view.set(key, value) }),
      make("span", {}, text))));
  return make("div", { class: "controls" },
    axis.time ? choice("Along", "along", "time", [[false, "steps"], [true, "time"]]) : null,
    choice("Scale", "scale", "log", [[false, "linear"], [true, "log"]]));
}

/** Moves the cursor of all curves, by keyboard and on phones. */
function slider(axis) {
  const label = make("label", { for: "step" });
  const input = make("input", { type: "range", id: "step" });
  const output = make("output", { for: "step" });
  const reset = () => {
    const [first, last] = view.time ? [0, axis.time.last] : axis.steps;
    Object.assign(input, { min: first, max: last, step: view.time ? last / 200 : 1, value: last });
    label.textContent = view.time ? "Show time" : "Show step";
    output.textContent = view.time ? "the end" : "last step";
  };
  reset();
  view.listeners.add(() => { if (cursor.place === null) reset(); });
  input.addEventListener("input", () => cursor.set(Number(input.value)));
  cursor.listeners.add((place) => {
    if (place === null) return;
    input.value = place;
    output.textContent = view.time ? `${short(place)} ${axis.time.unit}` : `step ${whole(place)}`;
  });
  return make("div", { class: "slider" }, label, input, output);
}

/** The axes of curves of several runs: all steps, and all times if each run has a clock. */
function axisOf(lastStep, clocks) {
  const known = clocks.filter((clock) => clock);
  const seconds = d3.max(known, (clock) => clock.seconds.at(-1)) ?? 0;
  const [unit, size] = seconds < 100 ? ["s", 1] : seconds < 6000 ? ["min", 60] : ["h", 3600];
  const time = known.length === clocks.length && seconds > 0
    ? { unit, size, last: seconds / size, name: `training time in ${unit}` } : null;
  return { steps: [0, Math.max(1, lastStep)], time };
}

/** A line with the times of its points, by a run's clock; times between its steps are interpolated linearly. */
function timed(line, clock, axis) {
  if (!axis.time || !clock) return line;
  const at = d3.scaleLinear([0, ...clock.steps], [0, ...clock.seconds]).clamp(true);
  return { ...line, time: line.x.map((step) => at(step) / axis.time.size) };
}

/** The horizontal scale, from 0 to the very end, with as many ticks as fit. */
function xScale(axis, width) {
  const domain = view.time ? [0, axis.time.last] : axis.steps;
  const count = Math.max(2, Math.min(5, width / 60));
  return { domain, ticks: d3.ticks(...domain, count), tickFormat: ticksFormat(d3.tickStep(...domain, count)) };
}

const xName = (axis) => (view.time ? axis.time.name : "optimizer step");

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
