"use strict";
// Puts the page together. A part that fails says so, and leaves the others as they are.

(() => {
  const data = JSON.parse(byId("data").textContent);
  const parts = { curves: showCurves, benchmarks: showBenchmarks, vectors: showVectors, completions: showCompletions, setup: showSetup };
  showHead(data);
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
