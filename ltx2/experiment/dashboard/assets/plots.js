// Axes and lines as SVG.

const MARGIN = { left: 58, right: 14, top: 10, bottom: 40 };

// Pixel positions along one side. A quantity of kind "name" has a place per value.
function scaleOf(q, values, low, high) {
  const count = q.kind === "name" ? q.values.length : 0;
  const [first, last] = count ? [-0.5, count - 0.5] : padded(extent(values) || [0, 1]);
  const at = (value) => low + (high - low) * share(value, [first, last]);
  const marks = count ? q.values.map((text, place) => [place, text])
    : q.axis && q.values.length <= 8 ? q.values.map((text) => [Number(text), text])
      : ticks(first, last, Math.max(3, Math.abs(high - low) / 70)).map((v) => [v, tickText(v, q)]);
  return { at, marks, first, last, invert: (px) => first + ((px - low) / (high - low)) * (last - first) };
}

function tickText(value, q) {
  return q.unit === "bytes" ? bytesText(value) : numberText(value);
}

function padded([low, high]) {
  const room = high > low ? (high - low) * 0.04 : Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function axes(width, height, x, y, xLabel, yLabel) {
  const bottom = height - MARGIN.bottom;
  const right = width - MARGIN.right;
  const most = Math.max(4, Math.floor((right - MARGIN.left) / Math.max(1, x.marks.length) / 6.5));
  return svg("g", { class: "axes" },
    y.marks.map(([value, text]) => [
      svg("line", { x1: MARGIN.left, x2: right, y1: y.at(value), y2: y.at(value) }),
      svg("text", { x: MARGIN.left - 6, y: y.at(value) + 4, "text-anchor": "end" }, cut(text, 8)),
    ]),
    x.marks.map(([value, text]) => [
      svg("line", { x1: x.at(value), x2: x.at(value), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: x.at(value), y: bottom + 16, "text-anchor": "middle" }, cut(text, most)),
    ]),
    svg("line", { class: "base", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
    svg("text", {
      class: "title", x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle",
    }, xLabel),
    svg("text", {
      class: "title", transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`,
      "text-anchor": "middle",
    }, yLabel));
}

// Lines [{x, y, colour, name, index, class}] in one frame. A missing number breaks the line.
function linePlot({ lines, xLabel, yLabel, width, height, choose }) {
  const q = { kind: "number" };
  const x = scaleOf(q, lines.flatMap((line) => line.x), MARGIN.left, width - MARGIN.right);
  const y = scaleOf(q, lines.flatMap((line) => line.y), height - MARGIN.bottom, MARGIN.top);
  const paths = lines.map((line) => svg("path", {
    d: linePath(line, x, y), stroke: line.colour, class: `line ${line.class || ""}`,
    "data-index": line.index, onclick: choose ? () => choose(line.index) : null,
  }, svg("title", {}, line.name)));
  const label = `${yLabel} against ${xLabel}, ${lines.length} lines`;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": label },
    axes(width, height, x, y, xLabel, yLabel), paths);
}

function linePath(line, x, y) {
  let drawn = "";
  let open = false;
  line.x.forEach((value, i) => {
    const known = isNumber(value) && isNumber(line.y[i]);
    if (known) drawn += `${open ? "L" : "M"}${x.at(value).toFixed(1)} ${y.at(line.y[i]).toFixed(1)}`;
    open = known;
  });
  return drawn;
}

// Curves that cells have: [key, label]. Steps of all stages follow one another.
function curveChoices() {
  const steps = new Set();
  const metrics = new Set();
  for (const cell of data.cells) {
    for (const columns of Object.values(cell.steps)) Object.keys(columns).forEach((k) => steps.add(k));
    Object.keys(cell.curves).forEach((name) => metrics.add(name));
  }
  for (const name of ["step", "sigma_next"]) steps.delete(name);
  const order = ["video_std", "audio_std", "video_mean", "audio_mean", "sigma", "seconds"];
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return [
    ...[...steps].sort((a, b) => rank(a) - rank(b)).map((name) => [`step:${name}`, `${name} per step`]),
    ...[...metrics].sort().map((name) => [`curve:${name}`, name]),
  ];
}

// {x, y, xLabel, yLabel} of one cell, null when it lacks the curve.
function curveOf(cell, key) {
  const [kind, name] = [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)];
  if (kind === "curve") {
    const curve = cell.curves[name];
    return curve && {
      x: curve.x, y: curve.y, xLabel: curve.x_unit || "x",
      yLabel: curve.y_unit ? `${name} (${curve.y_unit})` : name,
    };
  }
  const x = [];
  const y = [];
  for (const columns of Object.values(cell.steps)) {
    if (!columns[name]) continue;
    if (x.length) { x.push(x.length); y.push(null); }  // a gap between stages
    columns[name].forEach((value) => { x.push(x.length); y.push(value); });
  }
  const stages = Object.keys(cell.steps).join(", then ");
  return y.length ? { x, y, xLabel: `step (${stages})`, yLabel: name } : null;
}
