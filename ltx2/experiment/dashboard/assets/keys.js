// The keyboard, and the dialog that explains it.

const KEYS = [
  ["space", "play or pause all videos"],
  [", and .", "one frame back, one frame on (Shift with ← and → does the same)"],
  ["[ and ]", "slower, faster"],
  ["← → ↑ ↓", "select the next cell; in Compare, ← and → step frames"],
  ["Enter", "details of the selected cell; Escape closes them"],
  ["a and b", "take the selected cell as A or B; s swaps them"],
  ["1 2 3 4", "Grid, Compare, Table, Charts"],
  ["0", "back to the first frame"],
  ["m", "sound of the cell under the pointer, or of the focused one"],
  ["/", "search"],
  ["?", "this list"],
];
const VIEWS = ["grid", "compare", "table", "charts"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function buildKeys() {
  const dialog = byId("help");
  dialog.replaceChildren(
    el("header", {}, el("h2", {}, "Keyboard"), el("button", {
      type: "button", class: "close", "aria-label": "close", onclick: () => dialog.close(),
    }, "✕")),
    el("dl", {}, KEYS.map(([keys, text]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, text)])));
  byId("help-button").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", onKey);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const { target } = event;
  if (target.matches("input[type=search], select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const arrow = ARROWS[event.key];
  if (arrow && target.matches("input[type=range], .scrolls *")) return;
  const pressed = target.closest("button, a, summary, input[type=checkbox]");
  if (pressed && [" ", "Enter"].includes(event.key)) return;
  const act = arrow ? () => onArrow(arrow, event.shiftKey) : actionOf(event.key);
  if (!act) return;
  event.preventDefault();
  act();
}

function actionOf(key) {
  const view = VIEWS[Number(key) - 1];
  if (view) return () => update({ view });
  const mark = (which) => () => {
    if (cellOf(state.selected)?.files.media) update({ [which]: state.selected });
  };
  return {
    " ": () => setPlaying(!clock.playing),
    ",": () => stepFrame(-1), ".": () => stepFrame(1), "[": () => changeSpeed(-1), "]": () => changeSpeed(1),
    0: () => { clock.playing = false; showFrame(0); },
    Enter: () => update({ panel: true }), Escape: escape, a: mark("a"), b: mark("b"), s: swapSides,
    m: toggleSound, "/": () => byId("search").focus(), "?": () => byId("help").showModal(),
  }[key];
}

function escape() {
  const open = document.querySelector("details.filter[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
  } else if (state.panel) closeDetail();
}

function onArrow([dx, dy], shift) {
  if (dx && (shift || state.view === "compare")) return stepFrame(dx);
  if (state.view === "grid") {
    const node = neighbour(dx, dy);
    if (!node) return;
    update({ selected: Number(node.dataset.index) });
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest", inline: "nearest" });
  } else if (state.view !== "compare") {
    const cells = sortedCells(tableColumns());
    const place = cells.findIndex((cell) => cell.index === state.selected) + (dx || dy);
    const next = cells[Math.min(cells.length - 1, Math.max(0, place))];
    if (!next) return;
    update({ selected: next.index });
    document.querySelector("tr.selected")?.scrollIntoView({ block: "nearest" });
  }
}
