// One tile per cell: its clip or what is known instead, its caption, and the marks A and B. Tiles
// are kept: moving a view or refreshing the data does not load a clip again.

const tiles = new Map();

function tileOf(cell) {
  let tile = tiles.get(cell.index);
  if (!tile) {
    tile = makeTile(cell.index);
    tiles.set(cell.index, tile);
  }
  if (tile.cell !== cell) {
    showCell(tile, cell);
    tile.cell = cell;
  }
  return tile;
}

function makeTile(index) {
  const node = el("article", { class: "tile", "data-index": index, tabindex: "-1" });
  const tile = { node, screen: el("div", { class: "screen" }), caption: el("div", { class: "caption" }) };
  const mark = (which) => el("button", {
    type: "button", class: `mark ${which}`, "aria-label": `show as ${which.toUpperCase()}`,
    title: `compare as ${which.toUpperCase()}`, tabindex: "-1",
    onclick: (event) => { event.stopPropagation(); update({ [which]: index }); },
  }, which.toUpperCase());
  node.append(tile.screen, el("div", { class: "marks" }, mark("a"), mark("b")), tile.caption);
  node.addEventListener("click", () => {
    node.focus({ preventScroll: true });
    update({ selected: index, panel: true });
  });
  const listen = () => hear(node.querySelector("video"));
  node.addEventListener("pointerenter", listen);
  node.addEventListener("focus", listen);
  node.addEventListener("pointerleave", () =>
    hear(document.activeElement?.closest(".tile")?.querySelector("video") || null));
  return tile;
}

function showCell(tile, cell) {
  const { screen, node } = tile;
  node.className = `tile ${cell.status}`;
  node.setAttribute("aria-label", `${cellName(cell)}, ${cell.status}`);
  screen.style.aspectRatio = ratioOf(cell);
  const source = usable(cell) ? `${cell.files.media} ${cell.started}` : "";
  if (tile.source === source && source) {
    screen.querySelectorAll(":scope > :not(.clip)").forEach((child) => child.remove());
  } else {
    const clip = clipElement(cell.files, cellName(cell));
    if (clip) clip.dataset.follows = "yes";
    dropClips(screen);
    screen.replaceChildren(...(clip ? [clip] : []));
    tile.source = source;
  }
  if (cell.status !== "completed" || !usable(cell)) screen.append(notice(cell));
  else if (cell.files.kind === "sound") screen.append(el("span", { class: "only" }, "♪ sound only"));
}

// What a cell without a finished clip has to say.
function notice(cell) {
  const lines = [statusMark(cell.status)];
  if (cell.error) lines.push(el("p", { class: "error" }, cell.error));
  if (cell.status === "running") lines.push(el("p", {}, progressText(cell)));
  if (cell.status === "lost") lines.push(el("p", {}, "its process ended, or its files are gone"));
  if (cell.status === "completed") lines.push(el("p", {}, "no clip that a browser can show"));
  return el("div", { class: usable(cell) ? "notice over" : "notice" }, lines);
}

function progressText(cell) {
  const stages = Object.entries(cell.steps);
  const [stage, columns] = stages[stages.length - 1] || ["", {}];
  const step = columns.step?.[columns.step.length - 1];
  const place = stage ? `${stage}, step ${step + 1} done` : "starting";
  const quiet = cell.changed ? data.written - cell.changed : 0;
  return quiet > 120 ? `${place}; no sign of life for ${secondsText(quiet)}` : place;
}

// The line under a clip: the values that its place in the grid does not tell, and one metric.
function showCaption(cell, hidden, range) {
  const tile = tileOf(cell);
  const named = Object.entries(cell.values).filter(([key]) => !hidden.includes(key))
    .map(([key, value]) => `${shortKey(key)} ${value}`);
  const q = quantity(state.metric);
  const value = q ? valueOf(cell, q) : null;
  const text = named.join(" · ") || `#${cell.index}`;
  const wanted = JSON.stringify([text, value, range, state.metric, darkTheme.matches]);
  if (tile.captionText !== wanted) {
    tile.captionText = wanted;
    refill(tile.caption,
      el("span", { class: "values", title: cellName(cell) }, text),
      isNumber(value) && el("span", {
        class: "value", style: filling(range ? share(value, range) : 0.5),
        title: `${q.label} ${valueText(value, q)} ${q.unit && q.unit !== "bytes" ? q.unit : ""}`,
      }, valueText(value, q)));
  }
  for (const which of ["a", "b"]) {
    const on = state[which] === cell.index;
    tile.node.classList.toggle(`is-${which}`, on);
    tile.node.querySelector(`.mark.${which}`).setAttribute("aria-pressed", String(on));
  }
  tile.node.classList.toggle("selected", state.selected === cell.index);
  return tile.node;
}
