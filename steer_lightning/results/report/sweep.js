"use strict";
// The page of a sweep: its head, and what its parts have in common.

/** The experiment that all parts show with emphasis: its number, or null. */
const emphasis = {
  number: null,
  listeners: new Set(),
  set(number) {
    if (number === this.number) return;
    this.number = number;
    for (const listener of this.listeners) listener(number);
  },
};

/** Shows an experiment with emphasis while the pointer or the focus is on a node. */
function emphasizes(node, number) {
  const on = () => emphasis.set(number), off = () => emphasis.set(null);
  node.addEventListener("pointerenter", on);
  node.addEventListener("pointerleave", off);
  node.addEventListener("focusin", on);
  node.addEventListener("focusout", off);
  return node;
}

const benchmarksOf = (data) => [...new Set(data.experiments.flatMap((row) => Object.keys(row.benchmarks)))];
const measured = (row, name, when) => (Object.hasOwn(row.benchmarks, name) ? row.benchmarks[name][when] : null);
const gainOf = (row, name) => {
  const before = measured(row, name, "before")?.value, after = measured(row, name, "after")?.value;
  return isNumber(before) && isNumber(after) ? after - before : null;
};
const counted = (count, what) => `${whole(count)} ${what}${count === 1 ? "" : "s"}`;

/** What charts can show of each experiment: accuracies first, then reward and length. */
function measuresOf(data) {
  const has = (read) => data.experiments.some((row) => isNumber(read(row)));
  return [
    ...benchmarksOf(data).map((name) => ({
      title: `Accuracy on ${name}`, unit: "accuracy", format: percent,
      read: (row) => measured(row, name, "after")?.value,
      bounds: (row) => { const found = measured(row, name, "after"); return found && isNumber(found.low) ? [found.low, found.high] : null; },
      base: (row) => measured(row, name, "before")?.value,
    })),
    { title: "Reward of the last steps", unit: "reward", format: short, read: (row) => row.reward_end, bounds: () => null, base: () => null },
    { title: "Completion length", unit: "tokens", format: short, read: (row) => row.completion_length, bounds: () => null, base: () => null },
  ].filter((measure) => has(measure.read));
}

/** A choice among measures, if there are several, above what `draw(measure)` returns. */
function byMeasure(id, measures, draw) {
  const box = make("div", {});
  const show = (k) => box.replaceChildren(...[draw(measures[k])].flat());
  show(0);
  if (measures.length === 1) return [box];
  const select = make("select", { id, onchange: () => show(Number(select.value)) },
    measures.map((measure, k) => make("option", { value: String(k) }, measure.title)));
  return [make("div", { class: "filters" }, make("div", { class: "field" }, make("label", { for: id }, "Show"), select)), box];
}

function showSweepHead(data) {
  const { experiments, keys } = data;
  byId("base").textContent = data.base ?? "unnamed base model";
  byId("title").textContent = `${data.task ?? data.sweep}: ${counted(experiments.length, "experiment")}`;
  byId("lead").textContent = keys.length ? `They differ in ${keys.map(([key]) => key).join(", ")}.` : "";
  byId("facts").append(...sweepFacts(data).map(([name, ...value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  showStatus(sweepStatus(experiments));
  showMade(data, data.sweep);
}

function sweepFacts(data) {
  const { experiments } = data;
  const ended = experiments.filter((row) => row.status === "ended").length;
  const rows = [["Ended", `${whole(ended)} of ${whole(experiments.length)}`]];
  const best = (read) => experiments.filter((row) => isNumber(read(row))).sort((a, b) => read(b) - read(a))[0];
  for (const name of benchmarksOf(data).slice(0, 3)) {
    const top = best((row) => measured(row, name, "after")?.value);
    if (!top) continue;
    const { value, low, high } = measured(top, name, "after"), before = measured(top, name, "before")?.value;
    const more = [shareInterval({ low, high }), isNumber(before) ? `${percent(before)} before` : null].filter((part) => part);
    rows.push([`Highest accuracy on ${name}`, `${percent(value)} `, make("small", {}, `${top.name}${more.length ? `; ${more.join("; ")}` : ""}`)]);
  }
  const top = best((row) => row.reward_end);
  if (top) rows.push(["Highest reward, last steps", `${short(top.reward_end)} `, make("small", {}, top.name)]);
  return rows;
}

function sweepStatus(experiments) {
  const are = (status) => experiments.filter((row) => row.status === status);
  const named = (rows) => rows.slice(0, 5).map((row) => row.name).join(", ") + (rows.length > 5 ? `, and ${whole(rows.length - 5)} more` : "");
  const failed = are("failed"), stopped = are("stopped"), open = [...are("waiting"), ...are("training")];
  const damaged = experiments.filter((row) => row.damage);
  return [
    failed.length ? `${counted(failed.length, "experiment")} failed: ${named(failed)}.` : null,
    stopped.length ? `${counted(stopped.length, "experiment")} ${stopped.length === 1 ? "was" : "were"} stopped: ${named(stopped)}. The command that began them goes on with them.` : null,
    open.length ? `${counted(open.length, "experiment")} had not ended when this page was made: ${named(open)}.` : null,
    ...damaged.slice(0, 3).map((row) => `${row.name} is shown without its figures. ${row.damage}`),
    damaged.length > 3 ? `${counted(damaged.length - 3, "more experiment")} can't be read, either.` : null,
  ].filter((part) => part);
}
