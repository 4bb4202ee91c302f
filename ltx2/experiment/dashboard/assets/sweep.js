// The page of a sweep: heading, tools, views, and fresh data while a server gives it.

const POLL_MS = 2000;
const tools = {};

function buildTools() {
  tools.rows = choice("rows", [], "", (rows) => update({ rows }));
  tools.columns = choice("columns", [], "", (columns) => update({ columns }));
  tools.metric = choice("metric under the videos", [], "", (metric) => update({ metric }));
  tools.stack = choice("cells that share a place", [["all", "all"], ["one", "one"]],
    state.stack, (stack) => update({ stack }));
  tools.tile = el("input", {
    type: "range", min: 90, max: 480, step: 10, "aria-label": "size of the videos",
    oninput: () => update({ tile: Number(tools.tile.value) }),
  });
  tools.status = choice("status", [], "", (status) => update({ status }));
  tools.search = el("input", {
    type: "search", id: "search", placeholder: "Search", "aria-label": "search prompts and values",
    value: state.text, oninput: () => update({ text: tools.search.value }),
  });
  tools.filters = el("div", { class: "filters" });
  tools.clear = clearButton();
  byId("tools").replaceChildren(labelled("rows", tools.rows), labelled("columns", tools.columns),
    labelled("show of a stack", tools.stack), labelled("metric", tools.metric), labelled("size", tools.tile));
  byId("filters").replaceChildren(tools.clear, tools.filters, labelled("status", tools.status), tools.search);
  document.addEventListener("pointerdown", (event) => {
    document.querySelectorAll("details.filter[open]").forEach((node) => {
      if (!node.contains(event.target)) node.open = false;
    });
  });
}

function showTools() {
  const axes = data.axes.map((axis) => [axis.key, shortKey(axis.key)]);
  setOptions(tools.rows, [["", "none"], ...axes], state.rows);
  setOptions(tools.columns, [["", "none"], ...axes], state.columns);
  const measured = quantities().filter((q) => !q.axis).map((q) => [q.key, q.label]);
  setOptions(tools.metric, [["", "none"], ...measured], state.metric);
  tools.stack.value = state.stack;
  const states = [...new Set(data.cells.map((cell) => cell.status))].sort();
  setOptions(tools.status, [["", "all"], ...states.map((s) => [s, s])], state.status);
  const keys = JSON.stringify(data.axes);
  if (tools.filters.dataset.axes !== keys) {
    tools.filters.dataset.axes = keys;
    tools.filters.replaceChildren(...data.axes.filter((axis) => axis.values.length > 1).map(filter));
  }
  tools.filters.querySelectorAll("details").forEach(showFilter);
  tools.clear.hidden = !state.status && !state.text
    && !Object.keys(state.filters).length && !Object.keys(state.brushes).length;
}

function filter(axis) {
  const box = (value) => el("label", {}, el("input", {
    type: "checkbox", value, onchange: () => readFilter(node, axis),
  }), value);
  const node = el("details", { class: "filter", "data-key": axis.key }, el("summary", {}),
    el("div", { class: "boxes" }, axis.values.map(box)));
  return node;
}

function readFilter(node, axis) {
  const on = [...node.querySelectorAll("input:checked")].map((input) => input.value);
  const filters = { ...state.filters };
  if (on.length === axis.values.length) delete filters[axis.key];
  else filters[axis.key] = on;
  update({ filters });
}

function showFilter(node) {
  const { key } = node.dataset;
  const on = state.filters[key];
  node.querySelectorAll("input").forEach((input) => { input.checked = !on || on.includes(input.value); });
  const text = !on ? "all" : on.length === 1 ? on[0] : `${on.length} of ${axisOf(key).values.length}`;
  node.querySelector("summary").textContent = `${shortKey(key)}: ${cut(text, 18)}`;
  node.classList.toggle("active", Boolean(on));
}

function showHeading() {
  const counts = {};
  for (const cell of data.cells) counts[cell.status] = (counts[cell.status] || 0) + 1;
  const shown = shownCells().length;
  byId("counts").replaceChildren(
    el("span", {}, shown === data.cells.length ? `${shown} cells` : `${shown} of ${data.cells.length} cells`),
    ...Object.keys(SIGNS).filter((s) => counts[s]).map((s) => statusMark(s, `${counts[s]} ${s}`)),
    isNumber(data.seconds) ? el("span", { class: "quiet" }, `took ${secondsText(data.seconds)}`) : "",
    el("span", { class: "quiet", id: "freshness" }, freshness));
  byId("home").hidden = !data.home;
  if (data.home) byId("home").href = data.home;
}

let freshness = data.live ? "live" : `as of ${dateText(data.written)}`;

function render() {
  showTools();
  showHeading();
  document.body.dataset.view = state.view;
  for (const view of VIEWS) {
    byId(view).hidden = view !== state.view;
    byId(`tab-${view}`).setAttribute("aria-selected", String(view === state.view));
    byId(`tab-${view}`).tabIndex = view === state.view ? 0 : -1;
  }
  renderDetail();
  ({ grid: renderGrid, compare: renderCompare, table: renderTable, charts: renderCharts })[state.view]();
}

// New data keeps the old object of every cell that is the same, so that only changed tiles change.
function takeData(fresh) {
  const known = new Map(data.cells.map((cell) => [cell.index, cell]));
  fresh.cells = fresh.cells.map((cell) => {
    const old = known.get(cell.index);
    return old && JSON.stringify(old) === JSON.stringify(cell) ? old : cell;
  });
  data = fresh;
  if (state.b === null || state.a === null) {
    const { a, b } = firstChoices();
    Object.assign(state, { a: state.a ?? a, b: state.b ?? b });
  }
  if (!state.metric) state.metric = firstChoices().metric;
}

async function poll(tag) {
  try {
    const answer = await fetch("data.json", {
      cache: "no-store", headers: tag ? { "If-None-Match": tag } : {},
    });
    if (answer.status === 200) {
      takeData(await answer.json());
      tag = answer.headers.get("ETag");
    }
    freshness = data.status === "running" ? "live" : "live, nothing runs";
    if (answer.status === 200) render();
  } catch {
    freshness = `the server does not answer; as of ${dateText(data.written)}`;
  }
  const node = byId("freshness");
  if (node) node.textContent = freshness;
  setTimeout(poll, POLL_MS, tag);
}

function startPage() {
  if (!VIEWS.includes(state.view)) state.view = "grid";
  for (const key of ["rows", "columns"]) if (!axisOf(state[key])) state[key] = "";
  for (const key of Object.keys(state.filters)) if (!axisOf(key)) delete state.filters[key];
  for (const key of Object.keys(state.brushes)) if (!quantity(key)) delete state.brushes[key];
  buildTools();
  buildControls();
  buildCompare();
  buildCharts();
  buildKeys();
  byId("command").replaceChildren(commandBox(data.command));
  VIEWS.forEach((view) => byId(`tab-${view}`).addEventListener("click", () => update({ view })));
  render();
  darkTheme.addEventListener("change", render);
  addEventListener("resize", () => { if (state.view === "charts") render(); });
  if (!reducedMotion.matches) setPlaying(true);
  requestAnimationFrame(tick);
  if (data.live) setTimeout(poll, POLL_MS);
}

startPage();
// For a look from the browser's console.
window.dashboard = { clock, state, update, cells: () => data.cells, followers };
