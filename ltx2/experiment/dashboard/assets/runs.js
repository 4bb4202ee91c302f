// The page over all runs: one row per sweep and per single run.

let data = JSON.parse(byId("data").textContent);
const POLL_MS = 2000;
const choices = { sort: "time", descending: true, kind: "", status: "", text: "" };
const rowNodes = new Map();

const COLUMNS = [
  ["clip", "", null],
  ["name", "prompt or sweep", (row) => row.name.toLowerCase()],
  ["status", "status", (row) => row.status],
  ["time", "when", (row) => row.time],
  ["model", "model", (row) => row.model],
  ["pipeline", "pipeline", (row) => row.pipeline],
  ["size", "clip", (row) => (row.width || 0) * (row.height || 0) * (row.frames || 1)],
  ["seconds", "took", (row) => row.seconds],
  ["command", "", null],
];

function buildTools() {
  const set = (key) => (value) => { choices[key] = value; render(); };
  const kinds = [["", "all"], ["sweep", "sweeps"], ["run", "single runs"]];
  const states = [...new Set(data.rows.map((row) => row.status))].sort();
  const search = el("input", {
    type: "search", id: "search", placeholder: "Search  /", "aria-label": "search runs",
    oninput: (event) => set("text")(event.target.value),
  });
  byId("tools").replaceChildren(
    labelled("show", choice("kind", kinds, "", set("kind"))),
    labelled("status", choice("status", [["", "all"], ...states.map((s) => [s, s])], "",
      set("status"))),
    search);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && typing) event.target.blur();
  });
}

function shownRows() {
  const words = choices.text.toLowerCase();
  const read = COLUMNS.find(([key]) => key === choices.sort)[2];
  const sign = choices.descending ? -1 : 1;
  return data.rows
    .filter((row) => (!choices.kind || row.kind === choices.kind)
      && (!choices.status || row.status === choices.status)
      && (!words || `${row.name} ${row.folder} ${row.model} ${row.pipeline} ${row.error}`
        .toLowerCase().includes(words)))
    .sort((a, b) => {
      const [x, y] = [read(a), read(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return x < y ? -sign : x > y ? sign : b.time - a.time;
    });
}

function render() {
  const rows = shownRows();
  byId("counts").textContent = rows.length === data.rows.length
    ? `${rows.length} rows` : `${rows.length} of ${data.rows.length} rows`;
  const heads = COLUMNS.map(([key, label, read]) => {
    const on = choices.sort === key;
    const sign = on ? (choices.descending ? " ▼" : " ▲") : "";
    return el("th", {
      scope: "col", class: `col-${key}`,
      "aria-sort": on ? (choices.descending ? "descending" : "ascending") : null,
    }, read ? el("button", { type: "button", "data-sort": key, onclick: () => sortBy(key) },
      label, el("span", { "aria-hidden": "true" }, sign)) : label);
  });
  const focused = document.activeElement?.dataset?.sort;
  byId("heads").replaceChildren(...heads);
  if (focused) byId("heads").querySelector(`[data-sort="${focused}"]`)?.focus();
  byId("rows").replaceChildren(...rows.map(rowNode));
  byId("none").hidden = rows.length > 0;
  byId("none").textContent = data.rows.length ? "No run fits." : "No runs here yet.";
}

function sortBy(key) {
  const same = choices.sort === key;
  choices.descending = same ? !choices.descending : key === "time";
  choices.sort = key;
  render();
}

// A row is kept while its data is the same, so that refreshing does not load its clip again.
function rowNode(row) {
  const content = JSON.stringify(row);
  const known = rowNodes.get(row.folder);
  if (known?.content === content) return known.node;
  const node = el("tr", { class: row.kind, "data-folder": row.folder }, COLUMNS.map(([key]) =>
    el("td", { class: `col-${key}` }, cellContent(key, row))));
  rowNodes.set(row.folder, { node, content });
  return node;
}

function cellContent(key, row) {
  if (key === "clip") return thumbnail(row);
  if (key === "name") return nameOf(row);
  if (key === "status") {
    return [statusMark(row.status),
      row.cells && el("span", { class: "quiet" }, cellCounts(row.cells))];
  }
  if (key === "time") return dateText(row.time);
  if (key === "seconds") return isNumber(row.seconds) ? secondsText(row.seconds) : "–";
  if (key === "command") return copyButton(row.command);
  if (key !== "size") return row[key] || "–";
  if (!row.width || !row.height) return "–";
  return [`${row.width}×${row.height}`,
    row.frames && el("span", { class: "quiet" }, `${row.frames} frames`)];
}

function cellCounts({ total, done, failed }) {
  return failed ? `${done} of ${total} done, ${failed} failed` : `${done} of ${total} done`;
}

function nameOf(row) {
  const isSweep = row.kind === "sweep";
  const href = isSweep ? row.files.page : row.files.media || row.files.record;
  const axes = isSweep && row.axes.map(([key, count]) => `${key} × ${count}`).join(", ");
  const seed = isNumber(row.seed) ? `, seed ${row.seed}` : "";
  return [
    el("div", { class: "name" }, el(href ? "a" : "span", { href, title: row.name }, row.name)),
    el("div", { class: "quiet" }, isSweep ? `sweep over ${axes || "cells"}` : row.folder + seed),
    row.error && el("div", { class: "error" }, row.error),
  ];
}

// Plays under the pointer or the focus, silently unless the reader turns the sound on in the clip.
function thumbnail(row) {
  const clip = clipElement(row.files, `clip of ${row.name}`);
  if (!clip) return el("div", { class: "thumb" });
  const label = `open the clip of ${row.name}`;
  const node = el("a", { class: "thumb", href: row.files.media, "aria-label": label }, clip);
  if (row.width && row.height) clip.style.aspectRatio = row.width / row.height;
  if (clip.play) {
    clip.loop = true;
    node.addEventListener("pointerenter", () => start(clip));
    node.addEventListener("focus", () => start(clip));
    for (const end of ["pointerleave", "blur"]) node.addEventListener(end, () => clip.pause());
  }
  return node;
}

function copyButton(text) {
  const box = commandBox(text);
  return el("details", { class: "how" }, el("summary", {}, "Command"), box);
}

async function poll(tag) {
  try {
    const answer = await fetch("data.json", {
      cache: "no-store", headers: tag ? { "If-None-Match": tag } : {},
    });
    if (answer.status === 200) {
      data = await answer.json();
      tag = answer.headers.get("ETag");
      render();
    }
    byId("freshness").textContent = "live";
  } catch {
    byId("freshness").textContent = `the server does not answer; as of ${dateText(data.written)}`;
  }
  setTimeout(poll, POLL_MS, tag);
}

buildTools();
render();
byId("freshness").textContent = data.live ? "live" : `as of ${dateText(data.written)}`;
if (data.live) setTimeout(poll, POLL_MS);
