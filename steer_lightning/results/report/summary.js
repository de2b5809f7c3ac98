"use strict";
// The head of the page: what was trained, and with which result.

function showHead(data) {
  const summary = data.summary ?? {};
  byId("base").textContent = data.base ?? "unnamed base model";
  byId("title").textContent = [data.task, data.run].filter((part) => part).join(", ");
  byId("lead").textContent = lead(data, summary.trained_parameters);
  byId("headline").append(...headline(data));
  byId("facts").append(...facts(data, summary).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  showStatus(statusOf(data));
  showMade(data, data.run);
}

function showMade(data, from) {
  byId("made").textContent = `Made from ${from} by steer-lightning ${data.version} on ${data.made.slice(0, 10)}. `
    + "This page contains everything it shows and loads nothing.";
}

function lead(data, trained) {
  const kind = Object.fromEntries(data.settings)["What is trained"] ?? "SteeringVectors";
  const { layers, width } = data.lens ?? { layers: [], width: 0 };
  const count = trained ?? (layers.length * width || null);
  const numbers = count === null ? "Trained numbers" : `${whole(count)} trained numbers`;
  if (kind !== "SteeringVectors") return `${numbers}, with ${kind}.`;
  const vectors = layers.length ? `, one vector of ${whole(width)} in each of ${layers.length} layers` : ", one vector per layer";
  return `${numbers}${vectors}; the model itself stays frozen.`;
}

/** Before and after, for each benchmark of the run; or of an evaluation if the run had none. */
function headline(data) {
  const rows = data.benchmarks.filter((row) => row.after).map((row) => ({
    name: row.name, before: row.before, after: row.after, when: "before training",
  }));
  return (rows.length ? rows : evaluated(data.evaluation ?? [])).slice(0, 4).map(result);
}

function evaluated(rows) {
  const right = rows.filter((row) => row.metric.startsWith("avg@") && isNumber(row.value));
  return [...new Set(right.map((row) => row.benchmark))].flatMap((name) => {
    const before = right.find((row) => row.benchmark === name && row.arm === "base");
    const after = right.find((row) => row.benchmark === name && row.arm === "steered");
    return before && after ? [{ name, before, after, when: "without vectors" }] : [];
  });
}

function result({ name, before, after, when }) {
  const figure = (label, found) => make("div", { class: "figure" },
    make("p", { class: "label" }, label),
    make("p", { class: "value" }, found ? percent(found.value) : "\u2013"),
    make("p", { class: "interval" }, found ? shareInterval(found) ?? "no interval" : "not measured"));
  return make("div", { class: "result" },
    make("h2", {}, `Accuracy on ${name}`),
    make("div", { class: "change" },
      figure(when, before), make("span", { class: "arrow", "aria-hidden": "true" }, "\u2192"),
      figure(after.step === null || after.step === undefined ? "steered" : `after step ${whole(after.step)}`, after)));
}

const shareInterval = (found) =>
  isNumber(found.low) ? `95\u202f%: ${one(100 * found.low)}\u2013${one(100 * found.high)}` : null;

function facts(data, summary) {
  const reward = data.curves["reward/mean"];
  const rows = [["Steps", data.last_step === null ? "\u2013" : whole(data.last_step)]];
  if (reward && reward.y.length) {
    rows.push(["Reward, last steps", short(lastReward(reward))]);
  }
  if (summary.best) {
    rows.push(["Best result", `step ${whole(summary.best.step)}: ${summary.best.metric} ${short(summary.best.value)}, in ${summary.best.file}`]);
  }
  if (isNumber(summary.seconds)) rows.push(["Time", duration(summary.seconds)]);
  if (isNumber(summary.tokens_per_second)) rows.push(["Tokens per second", whole(summary.tokens_per_second)]);
  if (isNumber(summary.seed)) rows.push(["Seed", String(summary.seed)]);
  return rows;
}

/** Mean of the last steps, as the progress bar shows it. */
const lastReward = (curve) => (curve.smooth ?? curve.y).at(-1);

/** Notes on a run that has not ended, or that resumed a run in another folder. */
function statusOf(data) {
  const parts = [], summary = data.summary ?? {};
  if (!data.summary) {
    const of = data.max_steps > 0 ? ` of ${whole(data.max_steps)}` : "";
    parts.push(`There is no summary.json: this run was interrupted or is still running. All figures cover the steps up to ${whole(data.last_step)}${of}.`);
  }
  if (summary.ended_early) parts.push(`The run ended after step ${whole(summary.num_steps)}, ${summary.ended_early}.`);
  for (const warning of summary.warnings ?? []) parts.push(`Warning: ${warning}.`);
  if (data.stages.length > 1) {
    parts.push(`The run was interrupted. Its steps are in ${data.stages.join(", ")}, and this page joins them.`);
  }
  return parts;
}

function showStatus(parts) {
  byId("status").replaceChildren(...parts.map((part) => make("span", {}, part)));
  byId("status").hidden = !parts.length;
}
