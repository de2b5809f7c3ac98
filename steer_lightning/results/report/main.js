"use strict";
// Puts the page together. A part that fails shows a message, and does not affect the others.

(() => {
  const data = JSON.parse(byId("data").textContent);
  const parts = data.sweep
    ? { curves: showSweepCurves, layers: showLayers, grid: showGrid, experiments: showSweepTable }
    : data.runs
    ? { curves: showComparedCurves, results: showComparedResults, settings: showComparedSettings }
    : { curves: showCurves, benchmarks: showBenchmarks, vectors: showVectors, completions: showCompletions, setup: showSetup };
  prepare(data);
  (data.sweep ? showSweepHead : data.runs ? showComparedHead : showHead)(data);
  for (const [id, show] of Object.entries(parts)) {
    try {
      show(data);
    } catch (error) {
      byId(id).append(missing(`This part could not be drawn: ${error.message}. Its data may be damaged.`));
    }
  }
  // pictures are drawn with the first frame
  requestAnimationFrame(() => requestAnimationFrame(() => {
    performance.mark("drawn");
    document.documentElement.dataset.drawn = "";
  }));
})();

/** Needed by all parts of a page: the name of its files, and the axes of its curves. */
function prepare(data) {
  pageName = data.run ?? data.sweep ?? "comparison";
  for (const row of data.experiments ?? []) row.link = row.run === null ? null : relative(data.root, row.run, "report.html");
  const looked = d3.max(data.looks ?? [], (look) => look.step) ?? 0;
  data.axis = axisOf(Math.max(data.last_step ?? 0, looked), (data.runs ?? [data]).map((run) => run.clock));
}
