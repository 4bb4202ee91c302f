// Everything about the selected cell, beside the view.

function renderDetail() {
  const panel = byId("detail");
  const cell = state.panel ? cellOf(state.selected) : null;
  document.body.classList.toggle("has-detail", Boolean(cell));
  panel.hidden = !cell;
  if (!cell) {
    dropClips(panel);
    panel.shown = null;
    panel.replaceChildren();
    return;
  }
  const inGrid = state.view === "grid";
  if (panel.shown === cell && panel.inGrid === inGrid) return showMarks(panel, cell);
  const top = panel.shown?.index === cell.index ? panel.scrollTop : 0;
  const keep = panel.shown?.index === cell.index && panel.inGrid === inGrid
    && panel.shown.files.media === cell.files.media ? panel.querySelector(".preview") : null;
  if (!keep) dropClips(panel);
  Object.assign(panel, { shown: cell, inGrid });
  refill(panel,
    el("header", {}, el("h2", {}, `Cell ${cell.index}`), statusMark(cell.status),
      markButton("a", cell), markButton("b", cell),
      el("button", { type: "button", class: "close", "aria-label": "close", onclick: closeDetail }, "✕")),
    cell.error && el("pre", { class: "error" }, cell.error),
    keep || preview(cell, inGrid),
    facts(cell),
    section("Reproduce", commandBox(cell.command)),
    section("Settings of this cell", configDiff(cell)),
    ...metricList(cell), ...cellCurves(cell), ...stageList(cell), ...warningList(cell),
    papers(cell));
  panel.scrollTop = top;
  showMarks(panel, cell);
}

function showMarks(panel, cell) {
  for (const which of ["a", "b"]) {
    panel.querySelector(`.mark.${which}`).setAttribute("aria-pressed", String(state[which] === cell.index));
  }
}

function closeDetail() {
  const open = tiles.get(state.selected)?.node;
  update({ panel: false });
  if (state.view === "grid") open?.focus({ preventScroll: true });
}

function markButton(which, cell) {
  const letter = which.toUpperCase();
  return el("button", {
    type: "button", class: `mark ${which}`, disabled: !usable(cell), title: `compare as ${letter} (${which})`,
    onclick: () => update({ [which]: cell.index }),
  }, letter);
}

// In the grid the clip plays in its tile; elsewhere the panel has a player of its own.
function preview(cell, inGrid) {
  if (!inGrid && usable(cell)) {
    const clip = clipElement(cell.files, cellName(cell));
    clip.setAttribute("controls", "");
    clip.loop = true;
    clip.tabIndex = 0;
    return el("div", { class: "preview" }, clip);
  }
  if (!cell.files.sheet) return null;
  return el("a", { class: "preview", href: cell.files.sheet, target: "_blank", rel: "noopener" },
    el("img", { src: cell.files.sheet, alt: "eight frames of the clip", loading: "lazy" }));
}

function facts(cell) {
  const size = cell.width && cell.height ? `${cell.width}×${cell.height}` : null;
  const length = cell.frames && cell.fps ? `${cell.frames} frames at ${numberText(cell.fps)} fps` : null;
  const rows = [
    ["prompt", cell.prompt], ["clip", [size, length].filter(Boolean).join(", ")],
    ["time", isNumber(cell.seconds) ? secondsText(cell.seconds) : ""],
    ["peak memory", isNumber(cell.peak_bytes) ? bytesText(cell.peak_bytes) : ""],
    ["cell", cell.cell],
  ].filter(([, text]) => text);
  return el("dl", {}, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

// Against what all cells share: a swept setting has no base, there the other cells' values stand.
function configDiff(cell) {
  if (!cell.diff.length) return el("p", { class: "quiet" }, "Nothing that other cells have not.");
  return table(["setting", "this cell", "base, or others"], cell.diff.map(([key, value, base]) =>
    [key, value, base || otherValues(cell, key, value)]));
}

function otherValues(cell, key, value) {
  const found = new Set();
  for (const other of data.cells) {
    const row = other.diff.find(([name]) => name === key);
    if (row && row[1] !== value) found.add(row[1]);
  }
  const texts = [...found].map((text) => cut(text, 40));
  return texts.length > 5 ? `${texts.slice(0, 5).join(" · ")} · …` : texts.join(" · ");
}

function metricList(cell) {
  const own = quantities().filter((q) => q.metric && isNumber(valueOf(cell, q)));
  if (!own.length) return [];
  const rows = own.map((q) => {
    const range = extent(data.cells.map((c) => valueOf(c, q)).filter(isNumber));
    const value = valueOf(cell, q);
    return [el("span", { title: q.text || null }, metricLabel(q)), numberText(value),
      el("span", { class: "place", title: `cells: ${numberText(range[0])} to ${numberText(range[1])}` },
        el("i", { style: `left:${share(value, range) * 100}%` }))];
  });
  return [section("Metrics", table(["metric", "value", "among all cells"], rows, "numbers"))];
}

function cellCurves(cell) {
  const plots = curveChoices().map(([key, label]) => [label, curveOf(cell, key)])
    .filter(([, curve]) => curve && curve.y.filter(isNumber).length > 1)
    .map(([label, curve]) => el("figure", {}, el("figcaption", {}, label), linePlot({
      lines: [{ ...curve, colour: "var(--accent)", name: label, index: cell.index }],
      xLabel: curve.xLabel, yLabel: curve.yLabel, width: 340, height: 150,
    })));
  if (!plots.length) return [];
  return [section("Curves", ...plots.slice(0, 2), plots.length > 2
    && el("details", {}, el("summary", {}, `${plots.length - 2} more`), plots.slice(2)))];
}

function stageList(cell) {
  if (!cell.stages.length) return [];
  return [section("Stages", table(["stage", "", "time"], cell.stages.map((stage) =>
    [stage.name, stage.action, secondsText(stage.seconds)]), "numbers"))];
}

function warningList(cell) {
  if (!cell.warnings.length) return [];
  return [section("Warnings", el("ul", {}, cell.warnings.map((text) => el("li", {}, text))))];
}

function papers(cell) {
  const names = {
    media: "clip", sheet: "contact sheet", record: "run.json", config: "config.yaml", log: "run.log",
  };
  return el("p", { class: "papers" }, Object.entries(names).filter(([key]) => cell.files[key])
    .map(([key, text]) => el("a", { href: cell.files[key], target: "_blank", rel: "noopener" }, text)));
}
