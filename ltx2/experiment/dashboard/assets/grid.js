// The grid: one axis down, one across, and stacks of the cells that share a place.

const grid = { layout: "", tops: new Map() };

function renderGrid() {
  const cells = shownCells();
  const places = layOut(cells);
  const q = quantity(state.metric);
  const range = q && extent(cells.map((cell) => valueOf(cell, q)).filter(isNumber));
  const hidden = [state.rows, state.columns];
  for (const cell of cells) showCaption(cell, hidden, range);
  const layout = JSON.stringify([places, state.rows, state.columns, [...grid.tops]]);
  if (layout !== grid.layout) {
    grid.layout = layout;
    placeTiles(places);
  }
  const tile = state.tile || fittingTile(places.columns.length);
  byId("grid").style.setProperty("--tile", `${tile}px`);
  tools.tile.value = tile;
  roveFocus(cells);
  setClip(cells);
  showControls();
}

// The width at which all columns and two rows are seen at once, within reason.
function fittingTile(columns) {
  if (columns < 2) return innerWidth > 700 ? 240 : 170;
  const room = innerWidth - (innerWidth > 700 ? 150 : 32);
  const most = Math.min(320, innerHeight * 0.32 * ratioOf(null));
  return Math.round(Math.min(most, Math.max(130, room / columns - 10)));
}

// {rows, columns, stacks}: values of both axes, and the indices of the cells in every place.
function layOut(cells) {
  const used = (key) => (axisOf(key)?.values || [""]).filter((value) =>
    !key || cells.some((cell) => cell.values[key] === value));
  const rows = used(state.rows);
  const columns = state.columns === state.rows ? [""] : used(state.columns);
  const at = (cell, key, value) => value === "" && !axisOf(key) ? true : cell.values[key] === value;
  const stacks = rows.map((row) => columns.map((column) => cells.filter((cell) =>
    at(cell, state.rows, row) && (state.columns === state.rows || at(cell, state.columns, column)))
    .map((cell) => cell.index)));
  return { rows, columns, stacks, one: state.stack === "one" };
}

function placeTiles({ rows, columns, stacks, one }) {
  const node = byId("grid");
  // One place only: the cells flow over the width instead.
  const flows = rows.length <= 1 && columns.length <= 1;
  node.classList.toggle("flows", flows);
  node.style.setProperty("--columns", columns.length);
  if (flows) {
    node.replaceChildren(...(stacks[0]?.[0] || []).map((index) => tileOf(cellOf(index)).node));
    return emptyNote(node);
  }
  const heads = columns.map((value) => heading("column", state.columns, value));
  const parts = [el("div", { class: "corner" }, cornerText()), ...heads];
  rows.forEach((row, i) => {
    parts.push(heading("row", state.rows, row));
    stacks[i].forEach((indices, j) => parts.push(stack(indices, one, `${row}\n${columns[j]}`)));
  });
  node.replaceChildren(...parts);
  emptyNote(node);
}

function emptyNote(node) {
  if (!shownCells().length) {
    node.append(el("p", { class: "empty" }, "No cell fits the filters. ", clearButton()));
  }
}

function clearButton() {
  return el("button", { type: "button", onclick: clearFilters }, "Clear filters");
}

function clearFilters() {
  byId("search").value = "";
  update({ filters: {}, status: "", text: "", brushes: {} });
}

function cornerText() {
  return [state.rows && `${shortKey(state.rows)} ↓`, state.columns && `${shortKey(state.columns)} →`]
    .filter(Boolean).join("  ");
}

function heading(kind, key, value) {
  return el("div", { class: `head ${kind}`, title: `${key} = ${value}` },
    el("span", { class: "key" }, key ? shortKey(key) : ""), el("span", { class: "word" }, value));
}

function stack(indices, one, place) {
  if (!one || indices.length < 2) {
    return el("div", { class: "stack" }, indices.map((index) => tileOf(cellOf(index)).node));
  }
  const top = Math.min(grid.tops.get(place) || 0, indices.length - 1);
  const turn = (by) => {
    grid.tops.set(place, (top + by + indices.length) % indices.length);
    renderGrid();
  };
  const button = (by, sign, label) =>
    el("button", { type: "button", "aria-label": label, onclick: () => turn(by) }, sign);
  return el("div", { class: "stack deck" }, tileOf(cellOf(indices[top])).node,
    el("div", { class: "pager" }, button(-1, "‹", "previous of this stack"),
      `${top + 1} of ${indices.length}`, button(1, "›", "next of this stack")));
}

// One tile is reached by the tab key, the arrows move from there.
function roveFocus(cells) {
  const first = cells.some((c) => c.index === state.selected) ? state.selected : cells[0]?.index;
  for (const [index, tile] of tiles) tile.node.tabIndex = index === first ? 0 : -1;
}

// The tile next to the selected one in a direction, by what the eye sees.
function neighbour(dx, dy) {
  const shown = [...byId("grid").querySelectorAll(".tile")];
  const from = shown.find((node) => Number(node.dataset.index) === state.selected);
  if (!from) return shown[0] || null;
  const centre = (node) => {
    const box = node.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = centre(from);
  let best = null;
  let shortest = Infinity;
  for (const node of shown) {
    const [u, v] = centre(node);
    const ahead = dx * (u - x) + dy * (v - y);
    const aside = Math.abs(dy * (u - x)) + Math.abs(dx * (v - y));
    if (node !== from && ahead > 4 && ahead + 4 * aside < shortest) {
      shortest = ahead + 4 * aside;
      best = node;
    }
  }
  return best;
}
