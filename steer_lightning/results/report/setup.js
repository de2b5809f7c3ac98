"use strict";
// Configuration, versions and summary.

function showSetup(data) {
  const section = byId("setup");
  const parts = [];
  if (data.settings.length) parts.push(withTools(makeTable("Settings", ["setting", "value"], data.settings.map(([name, value]) => [name, String(value)])), "settings"));
  const { versions, ...summary } = data.summary ?? {};
  if (versions) parts.push(withTools(makeTable("Versions", ["package", "version"], Object.entries(versions).map(([name, value]) => [name, String(value)])), "versions"));
  section.append(make("div", { class: "columns" }, parts));
  if (!versions) section.append(missing("Versions are unknown: ", code("summary.json"), " is written only when a run ends."));
  if (data.config === null) section.append(missing("There is no ", code("config.yaml"), " in this folder."));
  else section.append(disclosure("config.yaml, which repeats the run", () => withText("config.yaml", "yaml", data.config)));
  if (data.summary) section.append(disclosure("summary.json", () => withText("summary.json", "json", JSON.stringify(data.summary, null, 2))));
}

/** A file's text, with buttons to copy and download it. */
function withText(name, ending, text) {
  return [textTools(name, ending, "text/plain", () => text), scrollable(make("pre", {}, text), name)];
}
