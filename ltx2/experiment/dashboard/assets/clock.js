// One clock for all videos. It goes with the middle one of those that play, so that a hitch that all
// of them have is no difference, or with the one that is heard, where a correction would be audible.
// The others are brought to it, small differences by a changed speed, large ones by a jump.

const JUMP_SECONDS = 0.3;
const WAIT_SECONDS = 0.4;
const SEEK_MS = 500;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

const clock = {
  time: 0, playing: false, rate: 1, sound: true, heard: null, duration: 1, fps: 24,
  waitingSince: null, last: null, changed: () => {},
};

function setClip(cells) {
  const timed = cells.filter((cell) => usable(cell) && cell.fps && cell.frames);
  clock.fps = Math.max(1, ...timed.map((cell) => cell.fps)) || 24;
  clock.duration = Math.max(1 / clock.fps, ...timed.map((cell) => cell.frames / cell.fps));
  clock.time = Math.min(clock.time, clock.duration);
}

function frameOf(time) {
  return Math.min(lastFrame(), Math.max(0, Math.floor(time * clock.fps + 1e-6)));
}

function lastFrame() {
  return Math.max(0, Math.round(clock.duration * clock.fps) - 1);
}

// The middle of a frame, where no rounding can show its neighbour.
function showFrame(frame) {
  const wanted = Math.min(lastFrame(), Math.max(0, frame));
  clock.time = (wanted + 0.5) / clock.fps;
  gather();
  clock.changed();
}

function setPlaying(playing) {
  clock.playing = playing;
  if (playing) {
    if (clock.time >= clock.duration - 1 / clock.fps) clock.time = 0;
    gather();
  } else {
    showFrame(frameOf(clock.time));
  }
  clock.changed();
}

// All videos at the clock's time and standing; the clock goes on when they are ready.
function gather() {
  clock.waitingSince = performance.now();
  for (const video of followers()) {
    video.pause();
    seek(video, clock.time);
  }
}

function followers() {
  return [...players.attached].filter((video) =>
    video.dataset.follows && video.isConnected && players.near.has(video));
}

function seek(video, time) {
  const end = isNumber(video.duration) ? video.duration - 0.5 / clock.fps : time;
  const target = Math.max(0, Math.min(time, end));
  if (video.readyState === 0) return;
  // Chromium sometimes never finishes the seek of a clip that was paused meanwhile; a second does.
  if (video.seeking && performance.now() - (video.sought || 0) < SEEK_MS) return;
  if (video.seeking || Math.abs(video.currentTime - target) > 0.001) jump(video, target);
}

function jump(video, time) {
  video.sought = performance.now();
  video.currentTime = time;
}

function isReady(video) {
  return video.readyState >= 2 && !video.seeking;
}

function tick(now) {
  requestAnimationFrame(tick);
  const passed = clock.last === null ? 0 : Math.min(0.25, (now - clock.last) / 1000);
  clock.last = now;
  const videos = followers();
  if (!clock.playing || document.hidden) {
    for (const video of videos) {
      if (!video.paused) video.pause();
      seek(video, clock.time);
    }
    return;
  }
  if (clock.waitingSince !== null) {
    for (const video of videos) seek(video, clock.time);
    const late = now - clock.waitingSince > WAIT_SECONDS * 1000;
    if (!late && !videos.every(isReady)) return;
    clock.waitingSince = null;
  }
  advance(passed, videos);
  for (const video of videos) align(video);
  clock.changed();
}

function advance(passed, videos) {
  const times = videos.filter(goes).map((video) => video.currentTime).sort((a, b) => a - b);
  const { heard } = clock;
  if (heard && !heard.muted && goes(heard)) clock.time = heard.currentTime;
  else if (times.length) clock.time = times[times.length >> 1];
  else clock.time += passed * clock.rate;
  if (clock.time >= clock.duration) {
    clock.time = 0;
    gather();
  }
}

function goes(video) {
  return isReady(video) && !video.paused && !video.ended
    && Math.abs(video.currentTime - clock.time) < JUMP_SECONDS;
}

function align(video) {
  if (clock.waitingSince !== null) return;
  if (!isReady(video)) {
    if (video.seeking) seek(video, clock.time);
    return;
  }
  const left = video.duration - clock.time;
  if (left < 0.5 / clock.fps) {  // a shorter clip waits on its last frame
    video.pause();
    return;
  }
  if (video.paused || video.ended) start(video);
  const drift = video.currentTime - clock.time;
  if (Math.abs(drift) > JUMP_SECONDS) {
    jump(video, Math.min(video.duration, clock.time + 0.03));
  } else if (video === clock.heard && !video.muted) {
    video.playbackRate = clock.rate;
  } else {
    const aside = Math.abs(drift) * clock.fps > 0.1;
    const speed = clock.rate * (aside ? 1 - Math.max(-0.5, Math.min(0.5, drift * 8)) : 1);
    if (Math.abs(video.playbackRate - speed) > 0.01) video.playbackRate = speed;
  }
}

// Only one video is heard, and none before the reader has touched the page: browsers forbid it.
function hear(video) {
  clock.heard = video;
  for (const other of players.attached) {
    if (other.dataset.follows) other.muted = true;
  }
  document.querySelectorAll(".heard").forEach((node) => node.classList.remove("heard"));
  if (!video || !clock.sound || !(navigator.userActivation?.hasBeenActive ?? true)) return;
  video.muted = false;
  video.parentElement.classList.add("heard");
}

players.joined = (video) => {
  video.muted = video !== clock.heard || !clock.sound;
  video.addEventListener("loadedmetadata", () => seek(video, clock.time), { once: true });
};
