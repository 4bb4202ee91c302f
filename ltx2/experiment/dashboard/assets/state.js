// What is shown: the data of the sweep, and the choices of the reader, which the address keeps.

let data = JSON.parse(byId("data").textContent);

const usable = (cell) => Boolean(cell.files.media);
const defaults = {
  view: "grid", rows: "", columns: "", filters: {}, status: "", text: "", stack: "all", tile: 0,
  metric: "", selected: null, panel: false, a: null, b: null, mode: "wipe", wipe: 0.5,
  sort: "index", descending: false, x: "", y: "", colour: "", curve: "", brushes: {},
};
const state = { ...structuredClone(defaults), ...firstChoices(), ...choicesOfAddress() };

// Two axes with several values span the grid: the longest across, the next one down.
function firstChoices() {
  const long = data.axes.filter((axis) => axis.values.length > 1)
    .sort((a, b) => b.values.length - a.values.length);
  const pictures = data.cells.filter(usable).map((cell) => cell.index);
  const names = Object.keys(data.metrics);
  return {
    columns: long[0]?.key || "", rows: long[1]?.key || "", metric: names[0] || "",
    a: pictures[0] ?? null, b: pictures[1] ?? null,
    x: long[0]?.key || "seconds", y: names[0] || "seconds", colour: long[1]?.key || "",
  };
}

function choicesOfAddress() {
  try {
    const saved = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
    return Object.fromEntries(Object.entries(saved).filter(([key, value]) =>
      key in defaults && (defaults[key] === null || typeof value === typeof defaults[key])));
  } catch {
    return {};
  }
}

let saving = 0;
function update(choices) {
  Object.assign(state, choices);
  // Browsers allow about a hundred changes of the address in half a minute.
  clearTimeout(saving);
  saving = setTimeout(() => {
    history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(state))}`);
  }, 300);
  render();
}

function cellOf(index) {
  return data.cells.find((cell) => cell.index === index) || null;
}

function axisOf(key) {
  return data.axes.find((axis) => axis.key === key) || null;
}

function isNumeric(axis) {
  return axis.values.length > 0 && axis.values.every((v) => v.trim() !== "" && isFinite(Number(v)));
}

// What the charts and the table can show of a cell, by key: parameters, metrics, costs.
let described = { of: null, list: [] };
function quantities() {
  if (described.of !== data) described = { of: data, list: describe().map(withDigits) };
  return described.list;
}

function describe() {
  const numeric = (key) => ({ key, label: key, kind: "number" });
  return [
    ...data.axes.map((axis) => ({
      key: axis.key, label: axis.key, kind: isNumeric(axis) ? "number" : "name", axis: true,
      values: axis.values,
    })),
    ...Object.entries(data.metrics).map(([name, info]) =>
      ({ ...numeric(name), metric: true, ...info })),
    { ...numeric("seconds"), label: "time", unit: "s", better: "lower", text: "time of the run" },
    { ...numeric("peak memory"), unit: "bytes", better: "lower", text: "peak memory of the run" },
  ];
}

// As many decimals in all cells as give the largest value four digits, so that points line up.
function withDigits(q) {
  if (q.axis || q.unit === "bytes") return q;
  const values = data.cells.map((cell) => valueOf(cell, q)).filter(isNumber);
  const largest = Math.max(0, ...values.map(Math.abs));
  if (values.every(Number.isInteger) || largest < 1e-5 || largest >= 1e6) return q;
  return { ...q, digits: Math.max(0, Math.min(7, 3 - Math.floor(Math.log10(largest)))) };
}

function quantity(key) {
  return quantities().find((q) => q.key === key) || null;
}

// A number, a name's text, or null where the cell has none.
function valueOf(cell, q) {
  if (q.axis) {
    const text = cell.values[q.key];
    if (text === undefined) return null;
    return q.kind === "number" ? Number(text) : text;
  }
  if (q.key === "seconds") return cell.seconds;
  if (q.key === "peak memory") return cell.peak_bytes;
  return cell.metrics[q.key] ?? null;
}

function valueText(value, q) {
  if (typeof value === "string") return value;
  if (q.unit === "bytes") return bytesText(value);
  return isNumber(value) && q.digits !== undefined ? value.toFixed(q.digits) : numberText(value);
}

// Position of a value on a scale: names count by their place in the axis.
function placeOf(cell, q) {
  const value = valueOf(cell, q);
  if (q.kind !== "name") return isNumber(value) ? value : null;
  const place = q.values.indexOf(value);
  return place < 0 ? null : place;
}

function shownCells() {
  const words = state.text.toLowerCase();
  const brushes = Object.entries(state.brushes).map(([key, range]) => [quantity(key), range]);
  return data.cells.filter((cell) =>
    (!state.status || cell.status === state.status)
    && Object.entries(state.filters).every(([key, values]) => values.includes(cell.values[key]))
    && (!words || searchable(cell).includes(words))
    && brushes.every(([q, [low, high]]) => {
      const place = q && placeOf(cell, q);
      return !q || (place !== null && place >= low && place <= high);
    }));
}

function searchable(cell) {
  const values = Object.entries(cell.values).map(([key, value]) => `${key}=${value}`).join(" ");
  return `#${cell.index} ${cell.prompt} ${values} ${cell.error}`.toLowerCase();
}

// "#3 seed=0, cfg=2"; with `keys`, only those values; long values are cut to `most` characters.
function cellName(cell, keys, most = Infinity) {
  const values = Object.entries(cell.values).filter(([key]) => !keys || keys.includes(key))
    .map(([key, value]) => `${shortKey(key)}=${cut(value, most)}`);
  return `#${cell.index} ${values.join(", ")}`.trim();
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

// Width over height of a clip; of the sweep's first known one where a cell has not begun.
function ratioOf(cell) {
  const sized = cell?.width && cell.height ? cell : data.cells.find((c) => c.width && c.height);
  return sized ? sized.width / sized.height : 16 / 9;
}

// guidance.video.cfg -> cfg, unless another axis ends the same.
function shortKey(key) {
  const last = key.split(".").pop();
  const same = data.axes.filter((axis) => axis.key.split(".").pop() === last);
  return same.length > 1 ? key : last;
}
