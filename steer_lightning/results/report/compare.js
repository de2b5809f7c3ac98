"use strict";
// Several runs on one page: curves drawn together, results side by side, and the settings that differ.

const allSame = (values) => new Set(values).size === 1;

function showComparedHead(data) {
  const names = data.runs.map((run) => run.name);
  const tasks = data.runs.map((run) => run.task ?? "unnamed task"), bases = data.runs.map((run) => run.base ?? "unnamed base model");
  byId("base").textContent = [...new Set(bases)].join(", ");
  byId("title").textContent = `${[...new Set(tasks)].join(", ")}: ${data.runs.length} runs`;
  byId("lead").textContent = names.join(", ");
  const open = data.runs.filter((run) => !run.summary).map((run) => run.name);
  const joined = data.runs.filter((run) => run.stages.length > 1).map((run) => `${run.name} (${run.stages.join(", ")})`);
  showStatus([
    open.length ? `Interrupted or still running: ${open.join(", ")}.` : null,
    joined.length ? `Runs whose steps are in several folders: ${joined.join("; ")}.` : null,
    ...data.runs.flatMap((run) => (run.summary?.warnings ?? []).map((warning) => `Warning of ${run.name}: ${warning}.`)),
  ].filter((part) => part));
  showMade(data, names.join(", "));
}

function showComparedCurves(data) {
  const section = byId("curves"), { axis, runs } = data;
  const lines = (name) => runs.flatMap((run, number) => (run.curves[name]?.x.length
    ? [timed({ ...run.curves[name], number, name: run.name }, run.clock, axis)] : []));
  const benchmarks = [...new Set(runs.flatMap((run) => run.benchmarks.filter((row) => row.accuracy).map((row) => row.name)))];
  const accuracies = benchmarks.map((name) => curvePanel({
    title: `Accuracy on ${name}`, note: "held-out problems", format: percent, unit: "accuracy", axis, height: 256, dots: true,
    lines: runs.flatMap((run, number) => run.benchmarks.filter((row) => row.name === name && row.accuracy)
      .map((row) => timed(accuracyLine(row, number, run.name), run.clock, axis))),
  }));
  const rewards = lines("reward/mean");
  const large = [
    rewards.length ? curvePanel({ title: "Reward", note: "mean of a step's completions", lines: rewards, format: short, unit: "reward", axis, height: 256 }) : null,
    ...accuracies,
  ].filter((panel) => panel);
  const small = SMALL.filter(([name]) => lines(name).length).map(([name, title, note, format, unit]) =>
    curvePanel({ title, note, format, unit, axis, lines: lines(name) }));
  if (!large.length && !small.length) {
    section.append(missing("There are no curves: ", code("metrics.csv"), " is missing or empty in all of these runs."));
    return;
  }
  section.append(
    make("p", { class: "intro" }, "Thin lines show single steps, thick lines the mean of the last 5. For a long run, a band shows the range from the smallest to the largest value."),
    switches(axis), slider(axis),
    make("div", { class: "panels large" }, large), make("div", { class: "panels" }, small));
}

function showComparedResults(data) {
  const { runs } = data;
  const names = [...new Set(runs.flatMap((run) => run.benchmarks.map((row) => row.name)))];
  const found = (run, name, when) => run.benchmarks.find((row) => row.name === name)?.[when];
  const reward = (run) => { const curve = run.curves["reward/mean"]; return curve?.x.length ? short(lastReward(curve)) : "\u2013"; };
  const rows = [
    ["Steps", ...runs.map((run) => whole(run.last_step))],
    ["Time", ...runs.map((run) => duration(run.summary?.seconds))],
    ["Tokens per second", ...runs.map((run) => whole(run.summary?.tokens_per_second))],
    ["Trained numbers", ...runs.map((run) => whole(run.summary?.trained_parameters))],
    ["Reward, last steps", ...runs.map(reward)],
    ...names.flatMap((name) => [
      [`${name}: accuracy before`, ...runs.map((run) => figure(found(run, name, "before"), percent))],
      [`${name}: accuracy after`, ...runs.map((run) => figure(found(run, name, "after"), percent))],
      [`${name}: change`, ...runs.map((run) => change(found(run, name, "before")?.value, found(run, name, "after")?.value, points))],
    ]),
  ];
  byId("results").append(
    make("p", { class: "intro" }, "Accuracies with 95\u202f% intervals, if they were measured."),
    withTools(makeTable("Results by run", ["result", ...runs.map((run, k) => named(run.name, k))], rows), "results"));
}

/** A run's name with the colour of its curves. */
const named = (name, number) => make("span", {}, swatch(number), name);

function showComparedSettings(data) {
  const section = byId("settings"), { runs, differences, unknown } = data;
  if (unknown.length) section.append(missing("There is no ", code("config.yaml"), ` of ${unknown.join(", ")}.`));
  if (!differences.length) {
    section.append(missing("All settings are the same."));
    return;
  }
  section.append(
    make("p", { class: "intro" }, "By configuration key, without folders and checkpoints."),
    withTools(makeTable("Settings by run", ["setting", ...runs.map((run, k) => named(run.name, k))], differences), "settings that differ"));
}
