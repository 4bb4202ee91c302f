// All cells as rows; a click on a heading sorts, colour repeats the number beside its neighbours.

function renderTable() {
  const columns = tableColumns();
  const cells = sortedCells(columns);
  const heads = columns.map((column) => {
    const on = state.sort === column.key;
    const sign = on ? (state.descending ? " ▼" : " ▲") : "";
    return el("th", {
      scope: "col", "aria-sort": on ? (state.descending ? "descending" : "ascending") : "none",
      class: column.q?.kind === "name" || column.plain ? "" : "number", title: column.text || column.key,
    }, el("button", { type: "button", "data-sort": column.key, onclick: () => sortBy(column.key) },
      column.label, el("span", { "aria-hidden": "true" }, sign)));
  });
  const ranges = columns.map(({ q }) => q && !q.axis
    ? extent(cells.map((cell) => valueOf(cell, q)).filter(isNumber)) : null);
  const rows = cells.map((cell) => el("tr", {
    "data-index": cell.index, class: state.selected === cell.index ? "selected" : "",
    onclick: () => update({ selected: cell.index, panel: true }),
  }, columns.map((column, i) => tableCell(column, cell, ranges[i]))));
  const focused = document.activeElement?.dataset?.sort;
  byId("table").replaceChildren(el("table", { class: "cells" },
    el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
  emptyNote(byId("table"));
  if (focused) byId("table").querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
}

function tableColumns() {
  const own = quantities().filter((q) => q.axis || data.cells.some((c) => valueOf(c, q) !== null));
  return [
    { key: "index", label: "#", read: (cell) => cell.index },
    { key: "status", label: "status", plain: true, read: (cell) => cell.status },
    ...own.map((q) => ({
      key: q.key, label: q.axis ? shortKey(q.key) : metricLabel(q), q, text: q.text || q.key,
      read: (cell) => valueOf(cell, q),
    })),
  ];
}

function tableCell(column, cell, range) {
  if (column.key === "index") return el("td", { class: "number" }, String(cell.index));
  if (column.key === "status") {
    return el("td", { title: cell.error || null }, statusMark(cell.status));
  }
  const { q } = column;
  const value = column.read(cell);
  if (q.kind === "name") return el("td", { class: "name", title: value }, value ?? "–");
  const best = isBest(value, q, range);
  return el("td", {
    class: best ? "number best" : "number", title: best ? "best of the cells shown" : null,
    style: isNumber(value) && range && range[1] > range[0] ? tint(share(value, range)) : null,
  }, best ? "★ " : null, valueText(value, q));
}

function isBest(value, q, range) {
  if (!isNumber(value) || !range || range[0] === range[1]) return false;
  return (q.better === "higher" && value === range[1]) || (q.better === "lower" && value === range[0]);
}

function sortBy(key) {
  update(state.sort === key ? { descending: !state.descending } : { sort: key, descending: false });
}

// Cells without the value come last in both directions.
function sortedCells(columns) {
  const column = columns.find((c) => c.key === state.sort) || columns[0];
  const sign = state.descending ? -1 : 1;
  const names = column.q?.kind === "name" ? column.q.values : null;
  const keyed = shownCells().map((cell) => {
    const value = column.read(cell);
    return [names && value !== null ? names.indexOf(value) : value, cell];
  });
  keyed.sort(([x, a], [y, b]) => {
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
    return (x < y ? -sign : x > y ? sign : 0) || a.index - b.index;
  });
  return keyed.map(([, cell]) => cell);
}
