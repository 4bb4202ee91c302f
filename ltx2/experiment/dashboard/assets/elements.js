// Building elements. Text only ever becomes text nodes: nothing here reads HTML from a string.

const SVG = "http://www.w3.org/2000/svg";

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

// New children for a node; null and false are left out.
function refill(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

function byId(id) {
  return document.getElementById(id);
}

// A drop-down of [value, text] pairs; `change` gets the chosen value.
function choice(label, options, value, change) {
  const select = el("select", { "aria-label": label, onchange: () => change(select.value) });
  setOptions(select, options, value);
  return select;
}

function setOptions(select, options, value) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.replaceChildren(...options.map(([v, text]) => el("option", { value: v }, text)));
    select.dataset.options = wanted;
  }
  select.value = value;
}

function labelled(text, control) {
  return el("label", { class: "labelled" }, el("span", {}, text), control);
}

// Status is said by a sign and a word; colour only repeats it.
const SIGNS = {
  completed: "✓", failed: "✕", running: "◐", pending: "○", lost: "?", interrupted: "‖",
};

function statusMark(status, text) {
  return el("span", { class: `status ${status in SIGNS ? status : "lost"}` },
    el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[status] || "•"), text || status);
}

// The command with a button that copies it; where there is no clipboard the text is selected.
function commandBox(text) {
  const code = el("code", { tabindex: "0" }, text);
  const button = el("button", { class: "copy", type: "button", onclick: copy }, "Copy");
  async function copy() {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  return el("div", { class: "command" }, code, button);
}
