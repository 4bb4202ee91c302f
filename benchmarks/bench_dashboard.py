"""The dashboard of a sweep of 200 cells: size of the page, seconds to write and load it, scrolling.

Needs Chromium and playwright. Targets: loads < 2 s, < 5 MB beside the videos.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from paired.report import show

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCROLL = """async () => {
  const grid = document.getElementById("grid"), gaps = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 100; i++) {
    grid.scrollTop += 40;
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    if CHROMIUM is None:
        print("skipped: needs Chromium")
        return
    with tempfile.TemporaryDirectory() as folder:
        page, rows = _write(Path(folder))
        rows += _look(page, options.repeats)
    show("dashboard of 200 cells", rows, options.json)


def _write(outputs: Path) -> tuple[Path, list[dict[str, object]]]:
    from sweep_files import AXES_200, write_clips, write_sweep

    from ltx2.experiment.dashboard import write_sweep_page

    sweep = write_sweep(outputs, AXES_200, write_clips(outputs / "clips"), unfinished=False)
    start = time.perf_counter()
    page = write_sweep_page(sweep)
    seconds = time.perf_counter() - start
    curves = sum(len(json.dumps(_steps(cell))) for cell in sweep.glob("*-cell"))
    return page, [
        {"what": "size of the page, MB", "value": page.stat().st_size / 1e6, "target": "< 5"},
        {"what": "of it steps of all cells as recorded, MB", "value": curves / 1e6, "target": "-"},
        {"what": "writing the page, s", "value": seconds, "target": "-"},
    ]


def _steps(cell: Path) -> object:
    return json.loads((cell / "run.json").read_text())["steps"]


def _look(page: Path, repeats: int) -> list[dict[str, object]]:
    from playwright.sync_api import sync_playwright

    loads, gaps = [], []
    arguments = ["--no-sandbox", "--disable-gpu", "--mute-audio"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for _ in range(repeats):
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            start = time.perf_counter()
            tab.goto(page.as_uri())
            while not tab.evaluate("dashboard.followers().some((video) => video.readyState >= 2)"):
                time.sleep(0.005)
            loads.append(time.perf_counter() - start)
            gaps += tab.evaluate(SCROLL)
            tab.close()
        browser.close()
    return [
        {"what": "until the first clip shows, s", "value": statistics.median(loads),
         "target": "< 2"},
        {"what": "scrolling, median ms between frames", "value": statistics.median(gaps),
         "target": "-"},
        {"what": "scrolling, 95 % below, ms", "value": sorted(gaps)[int(0.95 * len(gaps))],
         "target": "-"},
    ]  # fmt: skip


if __name__ == "__main__":
    main()
