// Videos are loaded when they come near the view, a few per frame so that scrolling stays smooth, and
// let go when others need their place: a browser refuses more than about 75 players on a page.

const MAX_PLAYERS = 70;
const LOAD_MS = 12;
const SCROLL_MS = 120;
const players = {
  attached: new Set(), near: new Set(), joined: () => {}, pumping: false, scrolled: 0, loaded: 0,
};

const nearView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) players.near.add(target);
    else leaveView(target);
  }
  startPump();
}, { rootMargin: "60px", scrollMargin: "60px" });

addEventListener("scroll", () => { players.scrolled = performance.now(); },
  { capture: true, passive: true });

// The element that shows a run's clip; null when it has none.
function clipElement(files, label) {
  if (!files.media) return null;
  if (files.kind === "picture") {
    return el("img", { src: files.media, alt: label, loading: "lazy", class: "clip" });
  }
  const video = el("video", {
    class: `clip ${files.kind}`, preload: "metadata", playsinline: true, "aria-label": label,
    disablepictureinpicture: true, tabindex: "-1",
  });
  video.muted = true;
  video.dataset.src = files.media;
  nearView.observe(video);
  return video;
}

function leaveView(video) {
  players.near.delete(video);
  if (!video.paused) video.pause();
}

function startPump() {
  if (players.pumping) return;
  players.pumping = true;
  requestAnimationFrame(pump);
}

// Loads clips near the view until the frame's share of time is used; now and then one while the
// page scrolls, since one costs about a frame.
function pump() {
  const begin = performance.now();
  const wanted = [...players.near].filter((video) => !players.attached.has(video));
  const scrolls = begin - players.scrolled < SCROLL_MS;
  let most = scrolls ? Number(begin - players.loaded > SCROLL_MS / 2) : wanted.length;
  while (wanted.length && most-- > 0 && performance.now() < begin + LOAD_MS && makeRoom()) {
    attach(wanted.shift());
    players.loaded = begin;
  }
  const full = !makeRoom();
  for (const video of wanted) video.parentElement?.classList.toggle("waiting", full);
  players.pumping = wanted.length > 0 && !full;
  if (players.pumping) requestAnimationFrame(pump);
}

// Whether another clip may be loaded; one that is out of view is let go for it.
function makeRoom() {
  if (players.attached.size < MAX_PLAYERS) return true;
  for (const video of players.attached) {
    if (!players.near.has(video)) {
      release(video);
      return true;
    }
  }
  return false;
}

function attach(video) {
  players.attached.add(video);
  video.parentElement?.classList.remove("waiting");
  video.src = `${video.dataset.src}#t=0.001`;
  players.joined(video);
}

function release(video) {
  if (!players.attached.delete(video)) return;
  video.pause();
  video.removeAttribute("src");
  video.load();
}

// For a clip that is not shown again.
function dropClips(node) {
  for (const video of node.querySelectorAll("video")) {
    nearView.unobserve(video);
    players.near.delete(video);
    release(video);
  }
}

// play() is refused while a page has not been touched, and broken off by the next pause().
function start(video) {
  const started = video.play();
  if (started) started.catch(() => {});
}
