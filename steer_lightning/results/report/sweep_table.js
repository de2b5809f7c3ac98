"use strict";
// The experiments of a sweep as a table that can be sorted.

const MOST_ROWS = 200; // more rows are shown on request
const LONGEST_VALUE = 80;

function showSweepTable(data) {
  const columns = sweepColumns(data);
  const box = make("div", {});
  const state = { column: 0, down: false, all: false };
  const draw = (focus) => {
    const order = sortedRows(data.experiments, columns[state.column], state.down);
    const shown = state.all ? order : order.slice(0, MOST_ROWS);
    const table = sortableTable(data, columns, shown, state, (column) => {
      const same = column === state.column;
      Object.assign(state, { column, down: same ? !state.down : columns[column].down });
      draw(true);
    });
    const rest = order.length - shown.length;
    box.replaceChildren(withTable(table, () => sweepRows(data, columns, order)),
      ...(rest ? [make("button", { type: "button", class: "more", onclick: () => { state.all = true; draw(); } }, `Show the other ${whole(rest)} rows`)] : []));
    if (focus) table.querySelector(`th[aria-sort] button`).focus();
  };
  draw();
  byId("experiments").append(
    make("p", { class: "intro" }, "A heading sorts the table by its column. Accuracies have 95\u202f% intervals, if they were measured. "
      + "The highest of many accuracies is partly luck: measure the chosen experiment on other problems, with ", code("steer-lightning evaluate"), "."),
    box, ...failures(data.experiments));
}

/** Columns: a name, a cell, the value by which they are sorted, and a text for files. */
function sweepColumns(data) {
  const number = (name, read, format) => ({ name, cell: (row) => format(read(row)), sort: read, text: (row) => read(row) ?? "", down: true });
  const accuracy = (title, benchmark, when) => ({
    name: title, down: true,
    cell: (row) => figure(measured(row, benchmark, when), percent),
    sort: (row) => measured(row, benchmark, when)?.value,
    text: (row) => { const found = measured(row, benchmark, when); return found ? [found.value, found.low, found.high].filter(isNumber).join(" ") : ""; },
  });
  const names = benchmarksOf(data);
  const of = (name) => (names.length > 1 ? `${name}: ` : "");
  return [
    { name: "experiment", title: "experiment, in the order of the sweep", cell: experimentName, sort: (row) => data.experiments.indexOf(row), text: (row) => row.name, down: false },
    ...data.keys.map(([key, label], k) => ({
      name: label, title: key, file: key, down: false, free: true,
      cell: (row) => (row.values[k] ? make("span", { class: row.values[k][0].length > 24 ? "long" : null }, shortened(row.values[k][0])) : "\u2013"),
      sort: (row) => (row.values[k] ? row.values[k][1] ?? row.values[k][0] : null),
      text: (row) => row.values[k]?.[0] ?? "",
    })),
    ...names.flatMap((name) => [
      accuracy(`${of(name)}accuracy before`, name, "before"), accuracy(`${of(name)}after`, name, "after"),
      number(`${of(name)}gain in points`, (row) => gainOf(row, name), (value) => (isNumber(value) ? signed(100 * value, one) : "\u2013")),
    ]),
    number("first reward", (row) => row.reward_start, short),
    number("last reward", (row) => row.reward_end, short),
    number("length", (row) => row.completion_length, short),
    number("steps", (row) => row.steps, whole),
    { name: "status", cell: (row) => make("span", { class: `state ${row.status}` }, row.status), sort: (row) => row.status, text: (row) => row.status, down: false },
  ];
}

const shortened = (text) => (text.length > LONGEST_VALUE ? `${text.slice(0, LONGEST_VALUE)}\u2026` : text);

/** The name of an experiment, which leads to the page of its run. */
function experimentName(row) {
  const parts = row.name.split(/(?<=_)/).flatMap((part, k) => (k ? [make("wbr"), part] : [part])); // lines break between settings
  return row.has_report ? make("a", { href: row.link }, parts) : make("span", {}, parts);
}

/** A relative address: whatever a folder is called, it is no other scheme and no other host. */
const relative = (...parts) => ["."].concat(parts.flatMap((part) => part.split("/")).map(encodeURIComponent)).join("/");

/** Numbers of rows in the order of a column: numbers, then texts; what is unknown comes last. */
function sortedRows(rows, { sort }, down) {
  const rank = (value) => (value === null || value === undefined || Number.isNaN(value) ? 2 : typeof value === "number" ? 0 : 1);
  const keyed = rows.map((row, k) => ({ k, value: sort(row) }));
  const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  keyed.sort((a, b) => rank(a.value) - rank(b.value)
    || (rank(a.value) === 2 ? 0 : (down ? -1 : 1) * compare(a.value, b.value)) || a.k - b.k);
  return keyed.map(({ k }) => k);
}

function sortableTable({ experiments }, columns, order, state, sortBy) {
  const head = columns.map((column, k) => make("th", { scope: "col", title: column.title, "aria-sort": k === state.column ? (state.down ? "descending" : "ascending") : null },
    make("button", { type: "button", class: "sort", onclick: () => sortBy(k) }, column.name)));
  const body = order.map((number) => {
    const row = experiments[number];
    const cells = columns.map((column, k) => make(k ? "td" : "th", { scope: k ? null : "row", class: column.free ? "free" : null }, column.cell(row)));
    return emphasizes(make("tr", { "data-number": number }, cells), number);
  });
  const rows = new Map(order.map((number, k) => [number, body[k]]));
  let marked = null;
  const mark = (number) => {
    marked?.classList.remove("marked");
    marked = rows.get(number) ?? null;
    marked?.classList.add("marked");
  };
  emphasis.listeners.delete(sortableTable.mark);
  sortableTable.mark = mark;
  emphasis.listeners.add(mark);
  return scrollable(make("table", { class: "sortable" }, make("caption", {}, "Experiments of the sweep"),
    make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)), "Experiments of the sweep");
}

const sweepRows = ({ experiments }, columns, order) =>
  [columns.map((column) => column.file ?? column.name), ...order.map((number) => columns.map((column) => column.text(experiments[number])))];

/** A table with buttons that copy and download all of its rows. */
function withTable(box, rows) {
  return make("div", { class: "saved" }, textTools("experiments", "csv", "text/csv", () => asCsv(rows())), box);
}

/** Why experiments failed. */
function failures(experiments) {
  const failed = experiments.filter((row) => row.reason);
  if (!failed.length) return [];
  const list = () => make("dl", { class: "reasons" }, failed.slice(0, MOST_ROWS).flatMap((row) => [make("dt", {}, row.name), make("dd", {}, row.reason)]));
  return [make("h3", {}, "Why experiments failed"), ...(failed.length > 10 ? [disclosure(`${whole(failed.length)} reasons`, list)] : [list()]),
    ...(failed.length > MOST_ROWS ? [make("p", { class: "note" }, `The first ${whole(MOST_ROWS)} of ${whole(failed.length)}.`)] : [])];
}
