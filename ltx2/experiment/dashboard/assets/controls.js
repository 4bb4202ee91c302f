// The bar that plays, pauses and scrubs all videos.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2];
const bar = {};

function buildControls() {
  bar.play = el("button", { class: "play", type: "button", onclick: () => setPlaying(!clock.playing) });
  bar.range = el("input", {
    type: "range", min: 0, step: 1, "aria-label": "frame", class: "scrub",
    oninput: () => { clock.playing = false; showFrame(Number(bar.range.value)); },
  });
  bar.text = el("output", { class: "time", "aria-live": "off" });
  bar.speed = choice("speed", SPEEDS.map((s) => [String(s), `${s}×`]), "1", setSpeed);
  bar.sound = el("button", { type: "button", onclick: toggleSound });
  const step = (by, sign, label) => el("button", {
    type: "button", "aria-label": label, title: label, onclick: () => stepFrame(by),
  }, sign);
  byId("controls").replaceChildren(bar.play, step(-1, "‹", "previous frame"),
    step(1, "›", "next frame"), bar.range, bar.text, bar.speed, bar.sound);
  clock.changed = showControls;
  showSound();
}

function showControls() {
  const frame = frameOf(clock.time);
  const word = clock.playing ? "Pause" : "Play";
  if (bar.play.textContent !== word) bar.play.textContent = word;
  bar.range.max = lastFrame();
  bar.range.value = frame;
  const text = `frame ${frame}/${lastFrame()} · ${(frame / clock.fps).toFixed(2)} s`;
  if (bar.text.textContent !== text) {
    bar.text.textContent = text;
    bar.range.setAttribute("aria-valuetext", text);
  }
}

function stepFrame(by) {
  clock.playing = false;
  showFrame(frameOf(clock.time) + by);
}

function setSpeed(value) {
  clock.rate = Number(value);
  bar.speed.value = String(clock.rate);
}

function changeSpeed(by) {
  const place = SPEEDS.indexOf(clock.rate) + by;
  setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, place))]);
}

function toggleSound() {
  clock.sound = !clock.sound;
  hear(clock.heard);
  showSound();
}

function showSound() {
  bar.sound.textContent = clock.sound ? "Sound on" : "Sound off";
  bar.sound.setAttribute("aria-pressed", String(clock.sound));
  bar.sound.title = "sound of the video under the pointer, or of the focused one (m)";
}
