"use strict";
// Reward, lengths and the rest over the steps.

const SMALL = [
  ["completion/length_mean", "Completion length", "tokens, mean of a step", short],
  ["completion/cut_off_share", "Cut off", "completions that did not end by themselves", percent],
  ["reward/no_signal_share", "Groups without signal", "all their rewards are equal: nothing to learn from", percent],
  ["completion/entropy", "Entropy", "nats a token", short],
  ["vectors/norm_mean", "Vector norm", "mean over the layers", short],
  ["update/gradient_norm", "Gradient norm", "before clipping", short],
];

function showCurves(data) {
  const section = byId("curves");
  const names = Object.keys(data.curves);
  if (!names.length) {
    section.append(missing("There are no curves: ", code("metrics.csv"), " is missing or empty. ", code("fit"), " writes it after every step."));
    return;
  }
  const domain = [0, Math.max(1, data.last_step)];
  const curve = (name) => ({ ...data.curves[name], number: 0, name });
  const has = (name) => data.curves[name] && data.curves[name].x.length;
  const large = [];
  if (has("reward/mean")) {
    large.push(curvePanel({ title: "Reward", note: "mean of a step's completions", lines: [curve("reward/mean")], format: decimal, domain, height: 240 }));
  }
  const measured = data.benchmarks.filter((row) => row.accuracy);
  if (measured.length) large.push(accuracyPanel(measured, domain));
  section.append(
    make("p", { class: "intro" }, explanation(data.curves["reward/mean"] ?? data.curves[names[0]])),
    slider(domain),
    make("div", { class: "panels large" }, large),
    make("div", { class: "panels" }, SMALL.filter(([name]) => has(name)).map(([name, title, note, format]) =>
      curvePanel({ title, note, format, domain, lines: [curve(name)] }))),
    disclosure(`All ${names.length} metrics`, () => make("div", { class: "panels" }, names.filter(has).map((name) =>
      curvePanel({ title: name, lines: [curve(name)], format: short, domain, height: 110 })))),
    disclosure("Reward and lengths as a table", () => curveTable(data.curves)));
}

function explanation(curve) {
  return curve.width > 1
    ? `Each point stands for ${curve.width} steps: the line is their mean, the band reaches from the smallest to the largest.`
    : "The thin line is each step, the strong one the mean of the last 5 steps.";
}

function accuracyPanel(benchmarks, domain) {
  const split = (points) => ({ x: points.map((p) => p[0]), y: points.map((p) => p[1]) });
  const lines = benchmarks.map((row, number) => {
    const line = { ...split(row.accuracy), number, name: row.name };
    const bound = (points) => { const known = new Map(points); return line.x.map((step) => known.get(step) ?? null); };
    if (row.accuracy_low) Object.assign(line, { low: bound(row.accuracy_low), high: bound(row.accuracy_high) });
    return line;
  });
  const note = `held-out problems${lines.length === 1 ? ` of ${lines[0].name}` : ""}${lines[0].low ? ", with 95\u202f% intervals" : ""}`;
  return curvePanel({ title: "Accuracy", note, lines, format: percent, domain, height: 240, dots: true });
}

/** Moves the cursor of all curves: by the keyboard, and on a phone. */
function slider([first, last]) {
  const input = make("input", { type: "range", id: "step", min: first, max: last, step: 1, value: last });
  const output = make("output", { for: "step" }, "last step");
  input.addEventListener("input", () => cursor.set(Number(input.value)));
  cursor.listeners.add((step) => {
    input.value = step;
    output.textContent = `step ${whole(step)}`;
  });
  return make("div", { class: "slider" }, make("label", { for: "step" }, "Look at step"), input, output);
}

function curveTable(curves) {
  const names = ["reward/mean", "completion/length_mean", "completion/cut_off_share"].filter((name) => curves[name]);
  if (!names.length) return missing("There is no reward in metrics.csv.");
  const first = curves[names[0]];
  const rows = first.x.map((x, k) => [stepText(first, k), ...names.map((name) => short(curves[name].y[nearest(curves[name].x, x)]))]);
  return makeTable("Reward and lengths", ["step", ...names], rows);
}
