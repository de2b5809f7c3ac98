"use strict";
// The vectors as seen through the unembedding, and their geometry.

const WITHOUT_VECTORS = ["LoRA", "BitFit", "VectorFit", "FullFinetune"];

function showVectors(data) {
  const section = byId("vectors");
  const { lens, looks } = data;
  const kind = Object.fromEntries(data.settings)["What is trained"];
  if (!lens && !looks.length) {
    if (WITHOUT_VECTORS.includes(kind)) {
      section.append(missing(`This run trained ${kind}, which changes weights, so there are no vectors to show.`));
      return;
    }
    section.append(missing("Nothing is known about the vectors: ", code("lens.json"), " is missing. A callback writes it during a run:",
      make("pre", {}, "trainer:\n  callbacks:\n    - class_path: steer_lightning.callbacks.LensCallback"),
      "After a run, a command writes it, and the report can be made again:",
      make("pre", {}, "steer-lightning lens --vectors RUN_FOLDER\nsteer-lightning report RUN_FOLDER --overwrite")));
    return;
  }
  if (lens) section.append(...lensParts(lens));
  if (looks.length > 1) section.append(...historyParts(data));
}

function lensParts(lens) {
  const layers = lens.layers.map((row) => row.layer);
  const relative = lens.layers.map((row) => row.norm_over_stream);
  const say = (title, values, format) => `${title} by layer: ${values.map((v, k) => `${layers[k]}: ${format(v)}`).join(", ")}.`;
  const norms = lens.layers.map((row) => row.norm);
  const panels = [notedPanel("Norm", "of each layer's vector", bars(layers, norms, { format: short, xName: "layer", yName: "norm", label: say("Norm", norms, short) }))];
  if (relative.every(isNumber)) {
    panels.push(notedPanel("Norm against the stream", "1 means as large as the activations in the layer", 
      bars(layers, relative, { format: short, xName: "layer", yName: "norm / stream", label: say("Norm relative to the stream", relative, short) })));
  }
  if (lens.singular_values?.length) {
    const numbers = lens.singular_values.map((_, k) => k + 1);
    panels.push(notedPanel("Singular values", `stable rank ${decimal(lens.stable_rank)} of ${layers.length}`,
      bars(numbers, lens.singular_values, { format: short, xName: "number", yName: "singular value",
        label: `Singular values: ${lens.singular_values.map(short).join(", ")}.` })));
  }
  const parts = [
    make("p", { class: "intro" }, `${lens.layers.length} of ${lens.num_layers} layers are steered, width ${whole(lens.width)}`
      + `${isNumber(lens.step) ? `, after step ${whole(lens.step)}` : ""}.`),
    make("div", { class: "panels" }, panels),
    make("h3", {}, "What the vectors say"),
    make("p", { class: "intro" }, "Each layer's vector is multiplied by the unembedding"
      + `${lens.final_norm ? ", after the final norm" : ""}. The table shows the tokens that the vector would make more or less likely if it were the whole stream.`),
    ...tokenHeat(lens),
  ];
  if (lens.cosines?.length > 1) {
    parts.push(make("h3", {}, "Directions"), make("p", { class: "intro" }, "Cosine between the vectors of each pair of layers."),
      squareHeat(lens.cosines, layers, "Cosines between the vectors of each pair of layers"),
      disclosure("Cosines as a table", () => makeTable("Cosines", ["layer", ...layers.map(String)], lens.cosines.map((row, k) => [String(layers[k]), ...row.map(decimal)]))));
  }
  if (lens.first_token) parts.push(...firstToken(lens.first_token));
  parts.push(...insideParts(lens.inside));
  return parts;
}

/** Layers by rank, each cell a token, coloured by its score. */
function tokenHeat(lens) {
  const box = make("div", {});
  const state = { end: "top", product: "dot" };
  const draw = () => {
    const lists = lens.layers.map((row) => row[state.end]?.[state.product] ?? []);
    const few = lists.length <= 16; // with more layers, scores are shown where the pointer is
    const count = Math.min(12, d3.max(lists, (list) => list.length) ?? 0);
    const most = d3.max(lists.flat(), ([, score]) => Math.abs(score)) || 1;
    const head = ["layer", ...d3.range(1, count + 1).map(String)];
    const rows = lists.map((list, k) => [String(lens.layers[k].layer), ...list.slice(0, count).map(([token, score]) => {
      const cell = make("span", { class: "token", title: `${visible(token)}  ${short(score)}` }, visible(token));
      if (few) cell.append(make("small", {}, short(score)));
      cell.style.backgroundColor = heat(score / most);
      return { value: cell, class: "heat" };
    })]);
    const caption = `${state.end === "top" ? "Top" : "Bottom"} tokens by ${state.product} product, layer by layer`;
    box.replaceChildren(count ? makeTable(caption, head, rows) : missing("No tokens are known for these vectors."));
  };
  const choice = (legendText, key, values) => make("fieldset", { class: "choice" }, make("legend", {}, legendText),
    values.map(([value, text]) => make("label", {},
      make("input", { type: "radio", name: `lens-${key}`, value, checked: state[key] === value,
        onchange: () => { state[key] = value; draw(); } }), make("span", {}, text))));
  draw();
  return [make("div", { class: "controls" },
    choice("Tokens", "end", [["top", "top"], ["bottom", "bottom"]]),
    choice("Product", "product", [["dot", "dot"], ["cosine", "cosine"]])), box];
}

const LEAST_CHANGE = 5e-4; // of a probability: a smaller one would show the same figure twice

function firstToken(found) {
  const table = (caption, rows) => {
    const moved = (rows ?? []).filter(([, base, steered]) => Math.abs(steered - base) >= LEAST_CHANGE);
    if (!moved.length) return missing(`${caption}: no token changes by ${decimal(100 * LEAST_CHANGE)} points or more.`);
    return makeTable(caption, ["token", "base", "steered"],
      moved.map(([token, base, steered]) => [{ value: visible(token), class: "mono" }, percent(base), percent(steered)]));
  };
  return [make("h3", {}, "The first token"),
    make("p", { class: "intro" }, `How the vectors change the probabilities of a completion's first token: mean over ${whole(found.num_prompts)} prompts, KL divergence from the base ${decimal(found.kl)} nats.`),
    make("div", { class: "columns" }, table("More likely", found.up), table("Less likely", found.down))];
}

function notedPanel(title, note, picture) {
  return panel("panel", title, null, picture, make("p", { class: "note" }, note));
}

function historyParts({ looks, axis, clock }) {
  const layers = looks[looks.length - 1].layers;
  const steps = looks.map((look) => look.step);
  const lines = (key, title, note) => notedPanel(title, note, layerLines({ looks, layers, key, title, axis, clock }));
  const select = make("select", { id: "history-layer" }, layers.map((layer, k) => make("option", { value: k }, `layer ${layer}`)));
  const box = make("div", {});
  const draw = () => {
    const k = Number(select.value);
    const shown = looks.length <= 12 ? looks : d3.range(12).map((i) => looks[Math.floor(i * (looks.length - 1) / 11)]);
    const count = d3.max(shown, (look) => look.top?.[k]?.length ?? 0) ?? 0;
    box.replaceChildren(makeTable(`Top tokens of layer ${layers[k]} during the run`, ["step", ...d3.range(1, count + 1).map((rank) => ({ value: String(rank), class: "mono" }))],
      shown.map((look) => [whole(look.step), ...(look.top?.[k] ?? []).map((token) => ({ value: visible(token), class: "mono" }))])));
  };
  select.addEventListener("change", draw);
  select.value = String(layers.length - 1);
  draw();
  return [make("h3", {}, "During the run"),
    make("div", { class: "panels" },
      lines("norms", "Norm", "one line per layer, from the first (blue) to the last (orange)"),
      looks.every((look) => Array.isArray(look.drift)) ? lines("drift", "Drift", "distance of each vector from its start") : null,
      curvePanel({ title: "Stable rank", note: `of ${layers.length} at most`, format: decimal, axis, unit: "rank",
        lines: [timed({ x: steps, y: looks.map((look) => look.stable_rank), number: 0, name: "stable rank" }, clock, axis)] })),
    make("div", { class: "controls" }, make("label", { for: "history-layer" }, "Tokens of "), select), box];
}

/** One line per layer, from the first (cool) to the last (warm). */
function layerLines({ looks, layers, key, title, axis, clock }) {
  const rows = layers.flatMap((layer, k) => looks.map((look, i) => ({ i, layer, value: look[key][k], k })));
  const line = timed({ x: looks.map((look) => look.step) }, clock, axis);
  const colour = (k) => `color-mix(in oklab, var(--c2) ${Math.round(100 * k / Math.max(1, layers.length - 1))}%, var(--c1))`;
  const last = looks[looks.length - 1];
  const [low, high] = d3.extent(rows, (row) => row.value);
  const apart = Math.abs(last[key][0] - last[key].at(-1)) > (high - low) / 8;
  const ends = apart ? [0, layers.length - 1] : []; // otherwise their names would overlap
  const values = rows.map((row) => row.value);
  const draw = (width) => {
    const y = (view.log && logScale(values, short)) || linearScale(values, short);
    const x = xScale(axis, width), xs = places(line);
    const at = (value) => (y.type === "log" && !(value > 0) ? NaN : value);
    return plot({
      width, height: 166, marginLeft: leftOf(y), marginRight: 26, x: { domain: x.domain }, y: scaleOf(y),
      marks: [...axes({ x, y, xName: xName(axis), yName: key === "norms" ? "norm" : "distance" }),
        Plot.line(rows, { x: (d) => xs[d.i], y: (d) => at(d.value), z: "layer", stroke: (d) => colour(d.k), strokeWidth: 1.5, title: (d) => `layer ${d.layer}` }),
        Plot.text(ends, { x: xs.at(-1), y: (k) => last[key][k], text: (k) => String(layers[k]), dx: 6, textAnchor: "start", fill: "var(--ink)" })],
    });
  };
  return responsive(draw, `${title} at the last look, by layer: ${layers.map((layer, k) => `${layer}: ${short(last[key][k])}`).join(", ")}.`);
}
