// Numbers as text, and as colour.

// Cividis, which people with any kind of colour vision read as the same order, dark to bright.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

const darkTheme = matchMedia("(prefers-color-scheme: dark)");

function cividis(t) {
  const place = Math.min(1, Math.max(0, t)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[low].map((c, i) => Math.round(c + (place - low) * (CIVIDIS[low + 1][i] - c)));
}

function css([r, g, b]) {
  return `rgb(${r} ${g} ${b})`;
}

// A colour to fill with, and the text colour that is legible on it.
function filling(t) {
  const colour = cividis(t);
  const light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 125;
  return `background:${css(colour)};color:${light ? "#101418" : "#fff"}`;
}

// A softer ground, on which the page's own text colour is legible.
function tint(t) {
  return `background:color-mix(in srgb, ${css(cividis(t))} var(--heat), var(--paper))`;
}

// A colour for lines and points: the end of the ramp that the page's background swallows is cut.
function lineColour(t) {
  return css(cividis(darkTheme.matches ? 0.36 + 0.64 * t : 0.86 * t));
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// Four significant digits, and no longer than a table cell.
function numberText(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(size < 1 ? 3 : 4)));
}

function secondsText(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

function bytesText(bytes) {
  if (!isNumber(bytes)) return "–";
  return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

// `time` in seconds since 1970, as this place writes it.
function dateText(time) {
  if (!time) return "–";
  const date = new Date(time * 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} `
    + `${two(date.getHours())}:${two(date.getMinutes())}`;
}

function extent(values) {
  const known = values.filter(isNumber);
  return known.length ? [Math.min(...known), Math.max(...known)] : null;
}

// Place of a value between the ends of its range, 0.5 when all values are equal.
function share(value, [low, high]) {
  return high > low ? (value - low) / (high - low) : 0.5;
}

// Round values inside [low, high], about `count` of them.
function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}
