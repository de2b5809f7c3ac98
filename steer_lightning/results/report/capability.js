"use strict";
// Whether steering adds capability: pass@k against k, and the problems that only one of the two solves.

/** The curves of one benchmark, whose `records` are the arms. */
function capabilityOf(name, records) {
  const title = `${name}: pass@k`;
  const ks = [...new Set(records.flatMap((record) => record.points.map((point) => point.k)))].sort((a, b) => a - b);
  const at = (record, k) => record.points.find((point) => point.k === k);
  const pairs = records.filter((record) => record.points.some((point) => "difference" in point));
  const head = ["k", ...records.map((record) => record.arm), ...pairs.map((record) => `${record.arm} against base`)];
  const table = ks.map((k) => [String(k), ...records.map((record) => figure(at(record, k), percent)), ...pairs.map((record) => gained(at(record, k)))]);
  return [
    make("h4", {}, title),
    panel("panel wide", "Problems solved within k samples", null,
      passCurves(records, ks, title),
      legend(records.map((record, number) => [number, record.arm]))),
    withTools(makeTable(title, head, table), `pass@k ${name}`),
    ...records.filter((record) => "num_both" in record).flatMap(solvedBy),
  ];
}

function gained(point) {
  if (!point || !isNumber(point.difference)) return "\u2013";
  return withInterval(signed(point.difference, points), interval(point.difference_low, point.difference_high, (x) => signed(100 * x, one)));
}

/** Curves with bands over a logarithmic axis, and a vertical line where a curve crosses that of the base. */
function passCurves(records, ks, title) {
  const known = records.map((record) => record.points.filter((point) => isNumber(point.value)));
  const y = linearScale([0, ...known.flat().flatMap((point) => [point.value, point.low, point.high])], percent);
  const draw = (width) => plot({
    width, height: 240, marginLeft: leftOf(y), x: { type: "log", base: 2, domain: d3.extent(ks) }, y: scaleOf(y),
    marks: [
      ...axes({ x: { ticks: ks, tickFormat: String }, y, xName: "k, number of samples", yName: null }),
      ...records.flatMap((record, number) => [
        Plot.areaY(known[number].filter((point) => isNumber(point.low)), { x: "k", y1: "low", y2: "high", fill: colourOf(number), fillOpacity: 0.15 }),
        Plot.lineY(known[number], { x: "k", y: "value", stroke: colourOf(number), strokeWidth: 1.75 }),
        Plot.dot(known[number], { x: "k", y: "value", r: 3, fill: colourOf(number), title: (point) => `${record.arm}, k = ${point.k}: ${percent(point.value)}` }),
        isNumber(record.crosses_at) ? Plot.ruleX([record.crosses_at], { stroke: colourOf(number), strokeDasharray: "2,3" }) : null,
      ]),
    ],
  });
  const ends = known.map((of, number) => `${records[number].arm}: ${of.map((point) => `${percent(point.value)} at k = ${point.k}`).join(", ")}`);
  return responsive(draw, `${title}. ${ends.join("; ")}.`);
}

/** In words and as a table: where the curves cross, and which problems only one of the two solves. */
function solvedBy(record) {
  const { arm, crosses_at: at, crosses_in: share } = record;
  const shown = isNumber(share) ? ` They cross in ${percent(share)} of bootstrap resamples of the problems.` : "";
  const only = [[arm, record.only_arm], ["base", record.only_base]];
  const rows = only.flatMap(([by, found]) => found.map((row) => [row.question, by, `${whole(row.num_right)} of ${whole(record.num_samples)}`]));
  const caption = `Problems that only one of ${arm} and the base solves`;
  return [
    make("p", {}, isNumber(at) ? `The curves of ${arm} and the base cross at k = ${whole(at)}.` : `The curves of ${arm} and the base do not cross up to k = ${whole(record.num_samples)}.`,
      shown, ` Of the problems, ${whole(record.num_both)} are solved by both, ${whole(record.only_arm.length)} only by ${arm}, `,
      `${whole(record.only_base.length)} only by the base, and ${whole(record.num_neither)} by neither.`),
    rows.length ? disclosure(caption, () => makeTable(caption, ["problem", "solved by", "right samples"], rows)) : null,
  ].filter((part) => part !== null);
}
