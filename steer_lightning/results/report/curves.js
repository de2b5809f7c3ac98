"use strict";
// Reward, lengths and other metrics over the steps.

const SMALL = [
  ["completion/length_mean", "Completion length", "mean of a step", short, "tokens"],
  ["completion/cut_off_share", "Cut off", "completions that did not end by themselves", percent, "share"],
  ["reward/no_signal_share", "Groups without signal", "groups whose rewards are all equal, so nothing is learned", percent, "share"],
  ["completion/entropy", "Entropy", "mean of a step", short, "nats per token"],
  ["vectors/norm_mean", "Vector norm", "mean over the layers", short, "norm"],
  ["update/gradient_norm", "Gradient norm", "before clipping", short, "norm"],
];

function showCurves(data) {
  const section = byId("curves");
  const names = Object.keys(data.curves);
  if (!names.length) {
    section.append(missing("There are no curves: ", code("metrics.csv"), " is missing or empty. ", code("fit"), " writes it after every step."));
    return;
  }
  const { axis } = data;
  const curve = (name) => timed({ ...data.curves[name], number: 0, name }, data.clock, axis);
  const has = (name) => data.curves[name] && data.curves[name].x.length;
  const large = [];
  if (has("reward/mean")) {
    large.push(curvePanel({ title: "Reward", note: "mean of a step's completions", lines: [curve("reward/mean")], format: short, unit: "reward", axis, height: 256 }));
  }
  const measured = data.benchmarks.filter((row) => row.accuracy);
  if (measured.length) large.push(accuracyPanel(measured, data));
  section.append(
    make("p", { class: "intro" }, explanation(data.curves["reward/mean"] ?? data.curves[names[0]])),
    switches(axis),
    slider(axis),
    make("div", { class: "panels large" }, large),
    make("div", { class: "panels" }, SMALL.filter(([name]) => has(name)).map(([name, title, note, format, unit]) =>
      curvePanel({ title, note, format, unit, axis, lines: [curve(name)] }))),
    disclosure(`All ${names.length} metrics`, () => make("div", { class: "panels" }, names.filter(has).map((name) =>
      curvePanel({ title: name, lines: [curve(name)], format: short, unit: name.split("/").at(-1), axis, height: 140 })))),
    disclosure("Reward and lengths as a table", () => curveTable(data.curves)));
}

function explanation(curve) {
  return curve.width > 1
    ? `Each point represents ${curve.width} steps: the line shows their mean, the band the range from the smallest to the largest value.`
    : "The thin line shows each step, the thick line the mean of the last 5 steps.";
}

/** The accuracy on a benchmark over the steps, with its intervals. */
function accuracyLine(row, number, name) {
  const line = { x: row.accuracy.map((p) => p[0]), y: row.accuracy.map((p) => p[1]), number, name };
  const bound = (points) => { const known = new Map(points); return line.x.map((step) => known.get(step) ?? null); };
  if (row.accuracy_low) Object.assign(line, { low: bound(row.accuracy_low), high: bound(row.accuracy_high) });
  return line;
}

function accuracyPanel(benchmarks, { axis, clock }) {
  const lines = benchmarks.map((row, number) => timed(accuracyLine(row, number, row.name), clock, axis));
  const note = `held-out problems${lines.length === 1 ? ` of ${lines[0].name}` : ""}${lines[0].low ? ", with 95\u202f% intervals" : ""}`;
  return curvePanel({ title: "Accuracy", note, lines, format: percent, unit: "accuracy", axis, height: 256, dots: true });
}

function curveTable(curves) {
  const names = ["reward/mean", "completion/length_mean", "completion/cut_off_share"].filter((name) => curves[name]);
  if (!names.length) return missing("There is no reward in metrics.csv.");
  const first = curves[names[0]];
  const rows = first.x.map((x, k) => [stepText(first, k), ...names.map((name) => short(curves[name].y[nearest(curves[name].x, x)]))]);
  return withTools(makeTable("Reward and lengths", ["step", ...names], rows), "reward and lengths");
}
