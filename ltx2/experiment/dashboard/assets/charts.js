// Parameters and metrics of all cells: parallel coordinates, scatter and curves.

const charts = {};

function buildCharts() {
  const pick = (key, label) => {
    charts[key] = choice(label, [], "", (value) => update({ [key]: value }));
    return labelled(label, charts[key]);
  };
  charts.parallel = el("div", {});
  charts.scatter = el("div", {});
  charts.curves = el("div", {});
  charts.legend = el("div", { class: "legend" });
  byId("charts").replaceChildren(
    el("div", { class: "pickers" }, pick("colour", "colour"), charts.legend),
    section("Parallel coordinates", el("p", { class: "quiet" },
      "Drag along an axis to keep the cells inside; double-click it to let go."), charts.parallel),
    el("div", { class: "pairs" },
      section("Scatter", el("div", { class: "pickers" }, pick("x", "x"), pick("y", "y")), charts.scatter),
      section("Curves", el("div", { class: "pickers" }, pick("curve", "quantity")), charts.curves)));
}

function renderCharts() {
  const all = quantities().filter((q) => q.axis || data.cells.some((c) => valueOf(c, q) !== null));
  const options = all.map((q) => [q.key, q.axis ? shortKey(q.key) : metricLabel(q)]);
  const known = (key, i) => (all.some((q) => q.key === key) ? key : all[Math.min(i, all.length - 1)]?.key);
  setOptions(charts.x, options, known(state.x, 0));
  setOptions(charts.y, options, known(state.y, 1));
  setOptions(charts.colour, [["", "none"], ...options], state.colour);
  const kinds = curveChoices();
  const hasCurve = kinds.some(([key]) => key === state.curve);
  setOptions(charts.curve, kinds, hasCurve ? state.curve : kinds[0]?.[0]);
  const cells = shownCells();
  const colour = colouring(cells);
  showLegend(colour);
  const width = Math.max(320, byId("charts").clientWidth - 40);
  charts.parallel.replaceChildren(parallel(all, cells, colour, width));
  const half = width > 900 ? (width - 24) / 2 : width;
  const [qx, qy] = [quantity(charts.x.value), quantity(charts.y.value)];
  charts.scatter.replaceChildren(scatter(qx, qy, cells, colour, half));
  charts.curves.replaceChildren(curvePlot(charts.curve.value, cells, colour, half));
}

// A function from cell to colour, with the quantity and range it says.
function colouring(cells) {
  const q = quantity(state.colour);
  const range = q && (q.kind === "name" ? [0, q.values.length - 1]
    : extent(cells.map((cell) => placeOf(cell, q))));
  const of = (cell) => {
    const place = range ? placeOf(cell, q) : null;
    return place === null ? "var(--accent)" : lineColour(share(place, range));
  };
  return { q, range, of };
}

function showLegend({ q, range }) {
  if (!range) return charts.legend.replaceChildren();
  const stops = [0, 0.25, 0.5, 0.75, 1];
  const parts = q.kind === "name"
    ? q.values.map((text, i) => [share(i, range), text])
    : null;
  const swatch = (t, text) => el("span", { class: "key" },
    el("i", { style: `background:${lineColour(t)}` }), text);
  charts.legend.replaceChildren(...(parts ? parts.map(([t, text]) => swatch(t, text)) : [
    el("span", {}, valueText(range[0], q)),
    el("i", { class: "ramp", style: `background:linear-gradient(90deg,${stops.map(lineColour)})` }),
    el("span", {}, valueText(range[1], q))]));
}

function chooseCell(index) {
  update({ selected: index, panel: true });
}

function parallel(all, cells, colour, width) {
  const height = 300;
  const [top, bottom] = [44, height - 16];
  const shown = all.filter((q) => q.kind === "name" ? q.values.length > 1
    : (([low, high]) => high > low)(extent(data.cells.map((c) => placeOf(c, q))) || [0, 0]));
  const wide = Math.max(width, shown.length * 110);
  const x = (i) => 60 + (shown.length > 1 ? (i * (wide - 160)) / (shown.length - 1) : 0);
  const scales = shown.map((q) => scaleOf(q, data.cells.map((c) => placeOf(c, q)), bottom, top));
  const kept = new Set(cells.map((cell) => cell.index));
  const line = (cell) => {
    let drawn = "";
    let open = false;
    shown.forEach((q, i) => {
      const place = placeOf(cell, q);
      const point = place !== null && `${x(i).toFixed(1)} ${scales[i].at(place).toFixed(1)}`;
      if (point) drawn += `${open ? "L" : "M"}${point}`;
      open = place !== null;
    });
    const faded = !kept.has(cell.index);
    const names = faded ? "line faded" : `line${cell.index === state.selected ? " chosen" : ""}`;
    return svg("path", {
      d: drawn, class: names, stroke: faded ? null : colour.of(cell), "data-index": cell.index,
      onclick: () => chooseCell(cell.index),
    }, svg("title", {}, cellName(cell)));
  };
  const last = (cell) => (cell.index === state.selected ? 2 : kept.has(cell.index) ? 1 : 0);
  const ordered = [...data.cells].sort((a, b) => last(a) - last(b));
  const node = svg("svg", {
    viewBox: `0 0 ${wide} ${height}`, class: "plot parallel", width: wide, height, role: "img",
    "aria-label": `parallel coordinates of ${cells.length} cells`,
  }, ordered.map(line), shown.map((q, i) => parallelAxis(q, x(i), scales[i], top, bottom, i)));
  return el("div", { class: "scrolls" }, node);
}

function parallelAxis(q, x, scale, top, bottom, place) {
  const label = q.axis ? shortKey(q.key) : metricLabel(q);
  const brush = state.brushes[q.key];
  const inside = (y) => Math.min(bottom, Math.max(top, y));
  const ends = brush && [inside(scale.at(brush[1])), inside(scale.at(brush[0]))];
  const strip = svg("rect", {
    class: "strip", x: x - 14, y: top - 6, width: 28, height: bottom - top + 12,
    "data-axis": q.key, onpointerdown: (event) => startBrush(event, q, scale),
    ondblclick: () => setBrush(q.key, null),
  });
  return svg("g", { class: "parallel-axis" },
    svg("line", { x1: x, x2: x, y1: top, y2: bottom }),
    svg("text", { class: "title", x, y: place % 2 ? 14 : 30, "text-anchor": "middle" },
      cut(label, 24), svg("title", {}, q.text || q.key)),
    scale.marks.map(([value, text]) =>
      svg("text", { x: x + 6, y: scale.at(value) + 4 }, cut(text, 16))),
    ends && svg("rect", {
      class: "brush", x: x - 7, y: ends[0], width: 14, height: Math.max(2, ends[1] - ends[0]),
    }),
    strip);
}

function startBrush(event, q, scale) {
  event.preventDefault();
  const svgNode = event.target.ownerSVGElement;
  const at = (moved) => {
    const box = svgNode.getBoundingClientRect();
    const px = ((moved.clientY - box.top) / box.height) * svgNode.viewBox.baseVal.height;
    return Math.min(scale.last, Math.max(scale.first, scale.invert(px)));
  };
  const from = at(event);
  addEventListener("pointerup", (up) => {
    const to = at(up);
    const far = Math.abs(to - from) > (scale.last - scale.first) * 0.02;
    if (far) setBrush(q.key, [Math.min(from, to), Math.max(from, to)]);
  }, { once: true });
}

function setBrush(key, range) {
  const brushes = { ...state.brushes };
  if (range) brushes[key] = range;
  else delete brushes[key];
  update({ brushes });
}

function scatter(qx, qy, cells, colour, width) {
  if (!qx || !qy) return el("p", { class: "quiet" }, "Nothing to show yet.");
  const height = 320;
  const known = cells.map((cell) => [cell, placeOf(cell, qx), placeOf(cell, qy)])
    .filter(([, a, b]) => a !== null && b !== null);
  const x = scaleOf(qx, known.map((row) => row[1]), MARGIN.left, width - MARGIN.right);
  const y = scaleOf(qy, known.map((row) => row[2]), height - MARGIN.bottom, MARGIN.top);
  const label = (q) => (q.axis ? shortKey(q.key) : metricLabel(q));
  const points = known.map(([cell, a, b]) => svg("circle", {
    cx: x.at(a), cy: y.at(b), r: cell.index === state.selected ? 8 : 5, fill: colour.of(cell),
    class: cell.index === state.selected ? "point chosen" : "point", "data-index": cell.index,
    onclick: () => chooseCell(cell.index),
  }, svg("title", {}, `${cellName(cell)}: ${valueText(valueOf(cell, qy), qy)}`)));
  return svg("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "plot scatter", role: "img",
    "aria-label": `${label(qy)} against ${label(qx)}, ${points.length} cells`,
  }, axes(width, height, x, y, label(qx), label(qy)), points);
}

function curvePlot(key, cells, colour, width) {
  const lines = key ? cells.map((cell) => [cell, curveOf(cell, key)]).filter(([, curve]) => curve) : [];
  if (!lines.length) return el("p", { class: "quiet" }, "No curves yet.");
  const { xLabel, yLabel } = lines[0][1];
  const chosen = ([cell]) => cell.index === state.selected;
  return linePlot({
    lines: [...lines.filter((l) => !chosen(l)), ...lines.filter(chosen)].map(([cell, curve]) => ({
      ...curve, colour: colour.of(cell), name: cellName(cell), index: cell.index,
      class: chosen([cell]) ? "chosen" : "",
    })),
    xLabel, yLabel, width, height: 320, choose: chooseCell,
  });
}
