"use strict";
// Benchmarks: during the run, and by `steer-lightning evaluate`.

function showBenchmarks(data) {
  const section = byId("benchmarks");
  if (data.benchmarks.length) section.append(runTable(data.benchmarks), ...data.benchmarks.filter((row) => row.arms).flatMap(armsOf));
  else section.append(missing("No benchmark was measured during the run. ", code("BenchmarkEval"), " in ", code("trainer.callbacks"), " measures benchmarks."));
  section.append(make("h3", {}, "Evaluation"));
  if (data.evaluation && data.evaluation.length) {
    const names = [...new Set(data.evaluation.map((row) => row.benchmark))];
    section.append(
      make("p", { class: "intro" }, "Results of ", code("steer-lightning evaluate"), ", with 95\u202f% bootstrap intervals over problems. ",
        "The difference from the base is computed problem by problem, so its interval is narrower than the other two suggest."),
      ...names.flatMap((name) => [...evaluationOf(name, data.evaluation.filter((row) => row.benchmark === name)), ...budgetsOf(name, data.budgets[name])]),
      ...[...new Set(data.capability.map((record) => record.benchmark))].flatMap((name) => capabilityOf(name, data.capability.filter((record) => record.benchmark === name))),
      ...[...new Set(data.refinements.map((record) => record.benchmark))].flatMap((name) => refinementsOf(name, data.refinements.filter((record) => record.benchmark === name))),
      ...strataOf(data.strata),
      ...sideEffectsOf(data.side_effects));
  } else {
    section.append(missing("There is no evaluation yet. An evaluation compares the base with the steered base, at several scales, on benchmarks of your choice:",
      make("pre", {}, "steer-lightning evaluate --config evaluate/mathematics --vectors RUN_FOLDER")));
  }
}

/** Accuracy against tokens of one benchmark: a curve for each arm, a point for each budget of thinking. */
function budgetsOf(name, curves) {
  const lines = Object.entries(curves ?? {});
  const all = lines.flatMap(([, line]) => line);
  if (!all.length) return [];
  const x = linearScale(all.flatMap((d) => [d.tokens, d.tokens_low, d.tokens_high]), one);
  const y = linearScale(all.flatMap((d) => [d.accuracy, d.accuracy_low, d.accuracy_high]), percent);
  const marks = lines.flatMap(([arm, line], number) => {
    const stroke = colourOf(number), at = { x: "tokens", y: "accuracy" };
    const known = line.filter((d) => isNumber(d.accuracy_low));
    return [
      Plot.ruleX(known, { x: "tokens", y1: "accuracy_low", y2: "accuracy_high", stroke, strokeOpacity: 0.4, strokeWidth: 2 }),
      Plot.lineY(line, { ...at, stroke, strokeWidth: 1.75 }),
      Plot.dot(line, { ...at, fill: stroke, r: 3.5, title: (d) => `${arm}, ${d.name}: ${percent(d.accuracy)} at ${one(d.tokens)} tokens` }),
      Plot.text(line, { ...at, text: "name", fill: stroke, dx: 6, dy: -8, textAnchor: "start" }),
    ];
  });
  const draw = (width) => plot({
    width, height: 260, marginLeft: leftOf(y), marginRight: 60, x: scaleOf(x), y: scaleOf(y),
    marks: [...axes({ x, y, xName: "tokens of a completion", yName: "accuracy" }), ...marks],
  });
  const label = lines.flatMap(([arm, line]) => line.map((d) => `${arm}, ${d.name}: ${percent(d.accuracy)} at ${one(d.tokens)} tokens`)).join("; ");
  return [panel("panel wide", `Accuracy against tokens, ${name}`, null,
    lines.length > 1 ? legend(lines.map(([arm], number) => [number, arm])) : null,
    responsive(draw, label))];
}

/** Answers refined by gradients, beside as many plain samples as cost the same. */
function refinementsOf(name, records) {
  const title = `${name}: refined answers`;
  const of = (record, key) => figure({ value: record[key], low: record[`${key}_low`], high: record[`${key}_high`] }, percent);
  const gap = (record, key) => (isNumber(record[key])
    ? withInterval(signed(record[key], points), interval(record[`${key}_low`], record[`${key}_high`], (x) => signed(100 * x, one))) : "\u2013");
  const head = ["arm", "refined", "changed", "tokens forwards", "tokens backwards", "seconds", "cost in plain samples", "vote of as many", "refined against vote", "best score of as many", "refined against best"];
  const table = records.map((record) => [
    record.arm, figure(record, percent), percent(record.changed), whole(record.forward_tokens), whole(record.backward_tokens), decimalsOf(3)(record.seconds), one(record.cost),
    of(record, "vote"), gap(record, "over_vote"), of(record, "best"), gap(record, "over_best"),
  ]);
  return [
    make("h4", {}, title),
    make("p", { class: "intro" }, "What goes through the base for a refined answer, forwards and backwards, and what as many plain samples as cost the same are worth, if they vote, or if the one that the refinement would prefer is taken."),
    withTools(makeTable(title, head, table), `refined ${name}`),
  ];
}

/** The same figures for problems of like difficulty. */
function strataOf(rows) {
  if (!rows.length) return [];
  const names = [...new Set(rows.map((row) => row.benchmark))];
  return [
    make("h4", {}, "Strata by the base's pass rate"),
    make("p", { class: "intro" }, "Half of the base's samples decide how hard a problem is, and the other half of all samples is measured, so that chance does not do both."),
    ...names.flatMap((name) => evaluationOf(name, rows.filter((row) => row.benchmark === name))),
  ];
}

const nats = decimalsOf(3);

/** What the arms change on text that has nothing to do with the problems. */
function sideEffectsOf(found) {
  if (!found) return [];
  const title = "Side effects";
  const size = `${whole(found.num_tokens)} tokens in ${whole(found.num_windows)} windows`;
  if (!found.base_knows_it) {
    const broken = found.rows[0].num_broken;
    const why = broken ? `The base's logits are not finite in ${whole(broken)} windows of ${found.text}` : `The base predicts ${found.text} worse than by an even guess`;
    return [make("h4", {}, title), missing(`${why}, so side effects can't be seen on it. `, code("--neutral_text"), " takes another text.")];
  }
  const of = (row, key) => ({ value: row[key], low: row[`${key}_low`], high: row[`${key}_high`] });
  const steered = found.rows.filter((row) => row.arm !== "base");
  const lines = steered.map((row) => ({ name: row.arm, ...of(row, "kl"), colour: "var(--c1)" }));
  const table = found.rows.map((row) => [row.arm, ...(row.arm === "base" ? ["", figure(of(row, "perplexity"), one), ""]
    : [figure(of(row, "kl"), nats), figure(of(row, "perplexity"), one), figure(of(row, "perplexity_ratio"), nats)])]);
  return [
    make("h4", {}, title),
    make("p", { class: "intro" }, `How far each arm moves the predictions on ${found.text} (${size}), which has nothing to do with the problems. Intervals are over windows.`),
    lines.length ? panel("panel wide", "KL to the base, in nats a token", null,
      intervalRows(lines, nats, lines.map((line) => `${line.name}: ${nats(line.value)}`).join(", "), { name: "nats a token", mark: 0 })) : null,
    withTools(makeTable(title, ["arm", "KL to the base", "perplexity", "perplexity / that of the base"], table), "side effects"),
  ].filter((part) => part !== null);
}

function runTable(benchmarks) {
  const ends = (points) => points && points.length ? [points.find((p) => p[0] === 0) ?? null, points[points.length - 1]] : [null, null];
  const rows = benchmarks.flatMap((row) => {
    const lines = [[`${row.name}: accuracy`, figure(row.before, percent), figure(row.after, percent), change(row.before?.value, row.after?.value, points)]];
    for (const [key, name, format, by] of [["completion_length", "mean length in tokens", one, one], ["cut_off_share", "cut off", percent, points]]) {
      const [before, after] = ends(row[key]);
      if (after) lines.push([`${row.name}: ${name}`, before ? format(before[1]) : "\u2013", format(after[1]), change(before?.[1], after[1], by)]);
    }
    return lines;
  });
  return withTools(makeTable("Benchmarks before the first step and after the last", ["benchmark", "before", "after", "change"], rows), "benchmarks");
}

/** The arms that were measured beside the trained vectors, at the last step that has them. */
function armsOf(row) {
  const steps = Object.values(row.arms).flatMap((arm) => (arm.accuracy ?? []).map((p) => p[0]));
  const step = d3.max(steps);
  const at = (of, key) => (of[key] ?? []).find((p) => p[0] === step)?.[1];
  const arms = [["trained", row], ...Object.entries(row.arms)].filter(([, of]) => isNumber(at(of, "accuracy")));
  if (arms.length < 2) return [];
  const lines = arms.map(([name, of]) => ({
    name, value: at(of, "accuracy"), low: at(of, "accuracy_low"), high: at(of, "accuracy_high"), colour: of === row ? "var(--c1)" : "var(--muted)",
  }));
  const table = arms.map(([name, of], number) => {
    const by = at(of, "difference");
    const against = isNumber(by) ? withInterval(signed(by, points), interval(at(of, "difference_low"), at(of, "difference_high"), (x) => signed(100 * x, one))) : "";
    const [length, cut] = [at(of, "completion_length"), at(of, "cut_off_share")];
    return [name, figure(lines[number], percent), against, isNumber(length) ? one(length) : "\u2013", isNumber(cut) ? percent(cut) : "\u2013"];
  });
  const title = `${row.name}: arms at step ${whole(step)}`;
  return [
    make("h4", {}, title),
    make("p", { class: "intro" }, "Each arm answers the same problems with the same random numbers as the trained vectors. Its difference from them is computed problem by problem."),
    panel("panel wide", "Accuracy by arm", null,
      intervalRows(lines, percent, lines.map((line) => `${line.name}: ${percent(line.value)}`).join(", "))),
    withTools(makeTable(title, ["arm", "accuracy", "against trained", "mean length in tokens", "cut off"], table), `arms ${row.name}`),
  ];
}

const points = (value) => `${one(100 * value)} points`;
const change = (before, after, format) => (isNumber(before) && isNumber(after) ? signed(after - before, format) : "\u2013");

/** A value with its interval below it. */
function figure(found, format, low = found?.low, high = found?.high) {
  if (!found || !isNumber(found.value)) return "\u2013";
  return withInterval(format(found.value), interval(low, high, (x) => format(x).replace("\u202f%", "")));
}

function withInterval(value, bounds) {
  return make("span", { class: "estimate" }, value, bounds ? make("small", {}, bounds) : null);
}

function evaluationOf(name, rows) {
  const arms = [...new Set(rows.map((row) => row.arm))];
  const found = [...new Set(rows.map((row) => row.metric))];
  const of = (...kinds) => found.filter((metric) => kinds.includes(metric.split("@")[0]));
  const passes = d3.sort(of("pass"), (metric) => -metric.split("@")[1]).slice(0, 1); // the curve has them all
  const means = of("avg"), votes = [...passes, ...of("maj")]; // two means if the base answers greedily
  const metrics = [...new Set([...means, ...votes, ...found.filter((metric) => !metric.startsWith("pass@"))])];
  const find = (arm, metric) => rows.find((row) => row.arm === arm && row.metric === metric);
  const format = (metric) => (metric === "length" ? one : percent);
  const table = arms.map((arm) => {
    const cells = metrics.map((metric) => figure(find(arm, metric), format(metric)));
    const right = rows.find((row) => row.arm === arm && row.metric.startsWith("avg@"));
    cells.splice(means.length, 0, right && isNumber(right.difference)
      ? withInterval(signed(right.difference, points), interval(right.difference_low, right.difference_high, (x) => signed(100 * x, one)))
      : "");
    return [arm, ...cells];
  });
  const head = ["arm", ...means, "against base", ...metrics.slice(means.length)];
  const right = arms.map((arm) => rows.find((row) => row.arm === arm && row.metric.startsWith("avg@") && isNumber(row.value)))
    .filter((row) => row)
    .map((row) => ({ name: row.arm, value: row.value, low: row.low, high: row.high, colour: row.arm === "base" ? "var(--muted)" : "var(--c1)" }));
  const count = rows[0].num_problems ? `, ${whole(rows[0].num_problems)} problems` : "";
  return [
    make("h4", {}, name),
    right.length ? panel("panel wide", `Accuracy by arm${count}`, make("span", { class: "reading" }, make("small", {}, means.join(", "))),
      intervalRows(right, percent, right.map((row) => `${row.name}: ${percent(row.value)}`).join(", "))) : null,
    withTools(makeTable(`${name}${count}`, head, table), `evaluation ${name}`),
  ].filter((part) => part !== null);
}
