"use strict";
// What attention and MLPs make of the vectors, as measured by `steer-lightning lens --inside`.

function insideParts(inside) {
  if (!inside) return [];
  const mean = (values) => d3.mean(values);
  const text = `Mean over ${whole(inside.num_tokens)} tokens of ${whole(inside.num_texts)} texts. Attention moved: the share of a head's attention that lies on other tokens than without vectors.`;
  const alone = inside.alone.filter((row) => row.attention);
  const next = inside.alone.filter((row) => row.mlp && isNumber(row.mlp.along));
  const parts = [make("h3", {}, "What the next attention and MLP make of it"), make("p", { class: "intro" }, text)];
  if (alone.length) {
    parts.push(make("h4", {}, "Each vector alone, in the next attention (layer of the vector: of the attention)"),
      headHeat(alone.map((row) => ({ name: `${row.layer}: ${row.attention.layer}`, ...row.attention })), "layer"));
  }
  if (inside.together.attention.length) {
    parts.push(make("h4", {}, "All vectors, in each attention"),
      headHeat(inside.together.attention.map((row) => ({ name: String(row.layer), ...row })), "layer"));
  }
  const panels = [];
  if (next.length) {
    const along = next.map((row) => row.mlp.along);
    panels.push(notedPanel("Added along the vector", "by the next MLP: 1 adds the vector again, \u22121 cancels it",
      bars(next.map((row) => row.layer), along, { format: decimal, xName: "layer", yName: "added / vector",
        label: `Added along the vector, by layer: ${next.map((row, k) => `${row.layer}: ${decimal(along[k])}`).join(", ")}.` })));
  }
  if (inside.together.mlp.length) {
    const rows = inside.together.mlp;
    panels.push(notedPanel("Output of each MLP", "how much all vectors together change it",
      bars(rows.map((row) => row.layer), rows.map((row) => row.relative), { format: percent, xName: "layer", yName: "change / output",
        label: `Change of the output of each MLP, by layer: ${rows.map((row) => `${row.layer}: ${percent(row.relative)}`).join(", ")}.` })));
  }
  if (panels.length) parts.push(make("div", { class: "panels" }, panels));
  parts.push(disclosure("Figures as a table", () => insideTable(inside, mean)));
  return parts;
}

function insideTable(inside, mean) {
  const tokens = (list) => ({ value: list.slice(0, 5).map(([token]) => visible(token)).join(" "), class: "mono" });
  const head = ["layer", "attention of layer", "moved", "to the first token", "to digits", "MLP of layer", "changed", "along", "cosine", "towards", "away from"];
  const rows = inside.alone.map(({ layer, attention, mlp }) => [String(layer),
    ...(attention ? [String(attention.layer), percent(mean(attention.variation)), signed(mean(attention.moved.first), percent), signed(mean(attention.moved.digits), percent)] : ["", "", "", ""]),
    ...(mlp ? [String(mlp.layer), percent(mlp.relative), decimal(mlp.along), decimal(mlp.cosine), tokens(mlp.top.cosine), tokens(mlp.bottom.cosine)] : ["", "", "", "", "", ""])]);
  return makeTable("Each vector alone", head, rows);
}

/** Layers by head, each cell coloured by the share of attention that has moved. */
function headHeat(rows, yName) {
  const cells = rows.flatMap((row) => row.variation.map((value, head) => ({ name: row.name, head, value, moved: row.moved })));
  const names = rows.map((row) => row.name), heads = d3.range(d3.max(rows, (row) => row.variation.length));
  const most = d3.max(cells, (cell) => cell.value) || 1;
  const few = cells.length <= 96;
  const draw = (width) => {
    const size = Math.min(width, 110 + 44 * heads.length, 760);
    const thin = (list) => list.filter((_, k) => k % Math.ceil(list.length / 16) === 0);
    return plot({
      width: size, height: 70 + Math.min(520, (few ? 28 : 14) * names.length), marginLeft: 58, padding: few ? 0.06 : 0,
      x: { domain: heads, type: "band" }, y: { domain: names, type: "band" },
      marks: [
        Plot.cell(cells, { x: "head", y: "name", fill: (d) => heat(d.value / most), rx: few ? 3 : 0,
          title: (d) => `layer ${d.name}, head ${d.head}: ${percent(d.value)} moved, ${signed(d.moved.first[d.head], percent)} to the first token, ${signed(d.moved.digits[d.head], percent)} to digits` }),
        few ? Plot.text(cells, { x: "head", y: "name", text: (d) => whole(100 * d.value), fill: "var(--ink)" }) : null,
        Plot.axisX({ ...AXIS, label: "head", labelAnchor: "center", ticks: thin(heads) }),
        Plot.axisY({ ...AXIS, label: yName, ticks: thin(names) }),
      ],
    });
  };
  return responsive(draw, `Attention moved, by layer and head: ${rows.map((row) => `${row.name}: ${row.variation.map(percent).join(" ")}`).join("; ")}.`);
}
