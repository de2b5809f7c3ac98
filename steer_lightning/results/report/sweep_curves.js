"use strict";
// The reward curves of all experiments of a sweep over each other, one of them with emphasis.

const TOLD_APART = 15; // five colours with three kinds of dashes

function showSweepCurves(data) {
  const section = byId("curves");
  const lines = data.experiments.flatMap((row, number) => (row.curve ? [{ ...row.curve, number, name: row.name }] : []));
  if (!lines.length) {
    section.append(missing("There are no curves: no experiment has taken a step."));
    return;
  }
  lines.forEach((line, place) => { line.place = place; });
  const left = data.num_curves - lines.length;
  section.append(
    make("p", { class: "intro" }, "Each curve is the mean of the last 5 steps of an experiment, or of neighbouring steps of a long run. "
      + "Point at a curve or at a row of the table to see one experiment, or name it below. "
      + (left ? `The picture has ${whole(lines.length)} of ${whole(data.num_curves)} curves: those with the highest and the lowest reward in the end, and others evenly between them.` : "")),
    sweepPanel(lines, axisOf(data.last_step, [])));
}

function sweepPanel(lines, axis) {
  const reading = make("span", { class: "reading" });
  const few = lines.length <= TOLD_APART;
  const find = (number) => lines.find((line) => line.number === number);
  const read = (line) => reading.replaceChildren(...(line ? [
    few ? swatch(line.place) : "", make("span", {}, line.name), make("b", {}, short(line.y.at(-1))), make("small", {}, `step ${whole(line.x.at(-1))}`)] : []));
  let show = () => {};
  const draw = (width) => {
    const [picture, mark] = sweepPicture(lines, axis, width, few);
    show = mark;
    show(find(emphasis.number));
    return picture;
  };
  const choice = few ? curveNames(lines) : curveChoice(lines);
  emphasis.listeners.add((number) => {
    const line = find(number);
    read(line);
    show(line);
    choice.mark(line);
  });
  const title = "Reward";
  return panel("panel wide", title, reading,
    responsive(draw, describeSweep(lines)),
    choice.node,
    make("div", { class: "foot" }, make("p", { class: "note" }, "mean of a step's completions"), pictureTools(title, lines)));
}

/** The picture, and a function that shows one of its lines, or none, with emphasis. */
function sweepPicture(lines, axis, width, few) {
  const y = linearScale(d3.merge(lines.map((line) => line.y)), short), x = xScale(axis, width);
  const picture = plot({
    width, height: 320, marginLeft: leftOf(y), x: { domain: x.domain }, y: scaleOf(y),
    marks: [...axes({ x, y, xName: xName(axis), yName: "reward" }), ...(few ? lines.flatMap(ownMarks) : sharedMarks(lines))],
  });
  for (const part of picture.querySelectorAll('[aria-label="line"], [aria-label="dot"]')) part.classList.add("lines");
  const [toX, toY] = [picture.scale("x"), picture.scale("y")];
  const strong = document.createElementNS("http://www.w3.org/2000/svg", "path");
  strong.setAttribute("class", "cursor strong"); // like a cursor, it is left out of a saved picture
  picture.append(strong);
  const mark = (line) => {
    picture.classList.toggle("quiet", Boolean(line));
    strong.toggleAttribute("hidden", !line);
    if (!line) return;
    const points = line.x.map((value, k) => `${toX.apply(value).toFixed(1)},${toY.apply(line.y[k]).toFixed(1)}`);
    strong.setAttribute("d", `M${points.join("L")}${points.length === 1 ? "h0.01" : ""}`);
    strong.setAttribute("data-colour", few ? line.place % 5 : 0);
  };
  const scale = () => Number(picture.getAttribute("width")) / picture.clientWidth;
  picture.addEventListener("pointermove", (event) => {
    const found = nearestLine(lines, toX.invert(event.offsetX * scale()), event.offsetY * scale(), toY);
    emphasis.set(found?.number ?? null);
  });
  picture.addEventListener("pointerleave", () => emphasis.set(null));
  return [picture, mark];
}

/** Marks of a curve in its own colour; a single step is a dot. */
function ownMarks(line) {
  const points = d3.range(line.x.length), colour = colourOf(line.place);
  const channels = { x: (k) => line.x[k], y: (k) => line.y[k] };
  return [points.length > 1
    ? Plot.lineY(points, { ...channels, stroke: colour, strokeWidth: 1.75, strokeLinejoin: "round", strokeDasharray: DASHES[Math.floor(line.place / 5) % 3] })
    : Plot.dot(points, { ...channels, fill: colour, r: 3 })];
}

/** Marks of many curves, which look alike. */
function sharedMarks(lines) {
  const points = lines.flatMap((line) => line.x.map((x, k) => ({ x, y: line.y[k], z: line.number })));
  const alone = lines.filter((line) => line.x.length === 1).map((line) => ({ x: line.x[0], y: line.y[0] }));
  return [
    Plot.lineY(points, { x: "x", y: "y", z: "z", stroke: "var(--muted)", strokeWidth: 1, strokeLinejoin: "round", strokeOpacity: Math.max(0.3, Math.min(0.8, 20 / lines.length)) }),
    Plot.dot(alone, { x: "x", y: "y", fill: "var(--edge)", r: 2.5 }),
  ];
}

/** The line whose value at a place is nearest to a height in the picture, if one is within 40 pixels. */
function nearestLine(lines, place, height, toY) {
  let found = null, least = 40;
  for (const line of lines) {
    if (place < line.x[0] - 1 || place > line.x.at(-1) + 1) continue;
    const away = Math.abs(toY.apply(heightAt(line, place)) - height);
    if (away < least) [found, least] = [line, away];
  }
  return found;
}

/** The value of a line at a place between its points. */
function heightAt({ x, y }, place) {
  const k = Math.min(Math.max(d3.bisectLeft(x, place), 1), x.length - 1);
  if (k < 1) return y[0];
  const share = Math.min(1, Math.max(0, (place - x[k - 1]) / (x[k] - x[k - 1])));
  return y[k - 1] + share * (y[k] - y[k - 1]);
}

/** Names of the curves; each takes the focus, and shows its curve with emphasis. */
function curveNames(lines) {
  const buttons = lines.map((line) => emphasizes(make("button", { type: "button", class: "curve" }, swatch(line.place), line.name), line.number));
  return {
    node: make("ul", { class: "legend" }, buttons.map((button) => make("li", {}, button))),
    mark: (line) => buttons.forEach((button, k) => button.classList.toggle("marked", lines[k] === line)),
  };
}

/** A choice of one of many curves. */
function curveChoice(lines) {
  const ranked = [...lines].sort((a, b) => b.y.at(-1) - a.y.at(-1));
  const select = make("select", { id: "curve", onchange: () => emphasis.set(select.value === "" ? null : Number(select.value)) },
    make("option", { value: "" }, "none"),
    ranked.map((line) => make("option", { value: String(line.number) }, `${short(line.y.at(-1))}  ${line.name}`)));
  return {
    node: make("div", { class: "filters" }, make("div", { class: "field" }, make("label", { for: "curve" }, "Show one experiment, the highest reward first"), select)),
    mark: (line) => { select.value = line ? String(line.number) : ""; },
  };
}

/** The picture in words. */
function describeSweep(lines) {
  const ranked = [...lines].sort((a, b) => b.y.at(-1) - a.y.at(-1));
  const told = (line) => `${line.name}: ${short(line.y[0])} at step ${whole(line.x[0])}, ${short(line.y.at(-1))} at step ${whole(line.x.at(-1))}`;
  const some = ranked.length > 12 ? [...ranked.slice(0, 3), ranked.at(-1)] : ranked;
  return `Reward of ${counted(lines.length, "experiment")}${some.length < ranked.length ? ", the three highest and the lowest" : ""}. ${some.map(told).join(". ")}.`;
}
