// Two clips over each other with a movable edge, side by side, or as their difference.

const pair = { a: null, b: null, sides: {} };
const MODES = [["wipe", "Wipe"], ["sides", "Side by side"], ["difference", "Difference"]];

function buildCompare() {
  pair.pickA = choice("video A", [], "", (v) => update({ a: Number(v) }));
  pair.pickB = choice("video B", [], "", (v) => update({ b: Number(v) }));
  pair.mode = choice("comparison", MODES, state.mode, (mode) => update({ mode }));
  pair.a = el("div", { class: "side side-a" });
  pair.b = el("div", { class: "side side-b" });
  pair.edge = el("div", {
    class: "edge", role: "slider", tabindex: "0", "aria-label": "edge between A and B",
    "aria-valuemin": "0", "aria-valuemax": "100", onkeydown: edgeKey,
  });
  pair.stage = el("div", { class: "wipe" }, pair.a, pair.b, pair.edge);
  pair.stage.addEventListener("pointerdown", dragEdge);
  pair.stage.addEventListener("pointermove", (event) => hear(sideAt(event).querySelector("video")));
  pair.stage.addEventListener("pointerleave", () => hear(null));
  pair.facts = el("div", { class: "facts" });
  byId("compare").replaceChildren(
    el("div", { class: "pickers" }, labelled("A", pair.pickA),
      el("button", { type: "button", onclick: swapSides, title: "swap (s)" }, "Swap"),
      labelled("B", pair.pickB), labelled("show", pair.mode)),
    pair.stage, pair.facts);
}

function renderCompare() {
  const kept = new Set([...shownCells().map((cell) => cell.index), state.a, state.b]);
  const options = data.cells.filter((cell) => usable(cell) && kept.has(cell.index))
    .map((cell) => [String(cell.index), cellName(cell, null, 24)]);
  setOptions(pair.pickA, options, String(state.a));
  setOptions(pair.pickB, options, String(state.b));
  pair.mode.value = state.mode;
  const [a, b] = [cellOf(state.a), cellOf(state.b)];
  const differing = data.axes.map((axis) => axis.key)
    .filter((key) => !a || !b || a.values[key] !== b.values[key]);
  showSide(pair.a, a, "A", differing);
  showSide(pair.b, b, "B", differing);
  pair.stage.style.setProperty("--ratio", ratioOf(a || b));
  pair.stage.dataset.mode = state.mode;
  showEdge();
  pair.facts.replaceChildren(...(a && b ? [differences(a, b), metricPairs(a, b)] : []));
  setClip([a, b].filter(Boolean));
  showControls();
}

function showSide(side, cell, letter, keys) {
  const source = cell && usable(cell) ? `${cell.files.media} ${cell.started}` : "";
  const name = cell ? cellName(cell, keys) : "choose a cell";
  if (side.dataset.source === source && side.firstChild) {
    side.querySelector(".label").textContent = `${letter} ${name}`;
    return;
  }
  side.dataset.source = source;
  dropClips(side);
  const clip = source && clipElement(cell.files, `${letter}: ${name}`);
  if (clip) clip.dataset.follows = "yes";
  side.replaceChildren(...(clip ? [clip] : []), el("span", { class: "label" }, `${letter} ${name}`));
}

function showEdge() {
  pair.stage.style.setProperty("--wipe", `${state.wipe * 100}%`);
  pair.edge.setAttribute("aria-valuenow", Math.round(state.wipe * 100));
  pair.edge.setAttribute("aria-valuetext", `A left of ${Math.round(state.wipe * 100)} %`);
}

function moveEdge(share) {
  state.wipe = Math.min(1, Math.max(0, share));
  showEdge();
}

function edgeShare(event) {
  const box = pair.stage.getBoundingClientRect();
  return (event.clientX - box.left) / box.width;
}

function dragEdge(event) {
  if (state.mode !== "wipe" || event.button) return;
  event.preventDefault();
  pair.edge.focus({ preventScroll: true });
  pair.stage.setPointerCapture(event.pointerId);
  const move = (moved) => moveEdge(edgeShare(moved));
  move(event);
  pair.stage.addEventListener("pointermove", move);
  pair.stage.addEventListener("pointerup", () => {
    pair.stage.removeEventListener("pointermove", move);
    update({});
  }, { once: true });
}

function edgeKey(event) {
  const by = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 }[event.key];
  const to = { Home: 0, End: 1 }[event.key];
  if (by === undefined && to === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  moveEdge(to ?? state.wipe + by);
}

function sideAt(event) {
  const middle = state.mode === "wipe" ? state.wipe : 0.5;
  return edgeShare(event) < middle ? pair.a : pair.b;
}

function swapSides() {
  update({ a: state.b, b: state.a });
}

// Settings in which A and B differ. A cell's own differences are against what all cells share, so
// a key that only one of them lists has the shared value in the other.
function differences(a, b) {
  const [left, right] = [a, b].map((cell) => new Map(cell.diff.map(([key, ...rest]) => [key, rest])));
  const keys = [...new Set([...left.keys(), ...right.keys()])].sort();
  const rows = keys.map((key) => {
    const shared = (left.get(key) || right.get(key))[1];
    return [key, left.get(key)?.[0] ?? shared, right.get(key)?.[0] ?? shared];
  }).filter(([, x, y]) => x !== y);
  return section("Settings that differ", rows.length
    ? table(["setting", "A", "B"], rows)
    : el("p", { class: "quiet" }, "None: the same settings."));
}

function metricPairs(a, b) {
  const rows = quantities().filter((q) => !q.axis).map((q) => [q, valueOf(a, q), valueOf(b, q)])
    .filter(([, x, y]) => isNumber(x) || isNumber(y))
    .map(([q, x, y]) => [metricLabel(q), valueText(x, q), valueText(y, q),
      isNumber(x) && isNumber(y) ? (y > x ? "+" : "") + valueText(y - x, q) : "–"]);
  return section("Metrics", table(["metric", "A", "B", "B − A"], rows, "numbers"));
}

function metricLabel(q) {
  const unit = q.unit && q.unit !== "bytes" ? ` (${q.unit})` : "";
  return `${q.label}${unit}${{ higher: " ↑", lower: " ↓" }[q.better] || ""}`;
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content);
}

function table(heads, rows, kind) {
  return el("div", { class: "scrolls" }, el("table", { class: kind || "" },
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      row.map((item, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, item)))))));
}
