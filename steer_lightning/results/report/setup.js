"use strict";
// Configuration, versions and summary.

function showSetup(data) {
  const section = byId("setup");
  const parts = [];
  if (data.settings.length) parts.push(makeTable("Settings", ["setting", "value"], data.settings.map(([name, value]) => [name, String(value)])));
  const { versions, ...summary } = data.summary ?? {};
  if (versions) parts.push(makeTable("Versions", ["package", "version"], Object.entries(versions).map(([name, value]) => [name, String(value)])));
  section.append(make("div", { class: "columns" }, parts));
  if (!versions) section.append(missing("Versions are not known: ", code("summary.json"), " is written when a run ends."));
  if (data.config === null) section.append(missing("There is no ", code("config.yaml"), " in this folder."));
  else section.append(disclosure("config.yaml: repeats the run", () => scrollable(make("pre", {}, data.config), "config.yaml")));
  if (data.summary) section.append(disclosure("summary.json", () => scrollable(make("pre", {}, JSON.stringify(summary, null, 2)), "summary.json")));
}
