"""A served page follows the sweep while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chromium import browser, clips, look
from sweep_files import AXES_24, settings_of, write_run, write_sweep
from waiting import until

from ltx2.experiment.dashboard.serve import open_server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def running(tmp_path, clips):
    """A sweep that runs, and the address of its page."""
    folder = write_sweep(tmp_path, AXES_24, clips)
    server = open_server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/sweeps/{folder.name}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


def finish(folder: Path, index: int, clip: Path) -> None:
    """What the framework writes when a cell is done."""
    summary = json.loads((folder / "summary.json").read_text())
    row = summary["cells"][index]
    row["status"] = "completed"
    run = folder / row["folder"]
    if run.exists():
        run.rename(folder / "before")
    write_run(run, row["values"], clip, settings=settings_of(row["values"]))
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_cell_that_finishes_appears_and_nothing_else_is_disturbed(look, running, clips):
    folder, url = running
    page = look(url)
    page.evaluate("dashboard.update({ rows: 'seed', columns: 'guidance.video.cfg' })")
    page.locator('.tile[data-index="1"]').click()
    until(page, "dashboard.followers().length > 3")
    page.evaluate("window.before = dashboard.followers().map((v) => [v, v.src])")
    assert page.locator('.tile[data-index="21"] video').count() == 0
    finish(folder, 21, clips[0])
    until(page, "document.querySelector('.tile[data-index=\"21\"] video') !== null")
    assert page.locator("#counts").text_content().startswith("24 cells✓21 completed")
    assert page.evaluate("before.every(([v, src]) => v.isConnected && v.src === src)")
    assert page.evaluate("dashboard.clock.playing")
    assert page.evaluate("[dashboard.state.rows, dashboard.state.selected]") == ["seed", 1]
    assert page.locator("#detail h2").text_content() == "Cell 1"


def test_steps_of_a_running_cell_are_followed(look, running):
    folder, url = running
    page = look(url)
    lines = [{"stage": "base", "step": i, "sigma": 1.0, "video_std": 1.0} for i in range(7)]
    (folder / "021-cell" / "steps.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    until(page, "document.querySelector('.tile[data-index=\"21\"]').textContent.includes('step 7')")


def test_videos_of_a_served_page_can_be_sought(look, running):
    _, url = running
    page = look(url, reduced_motion="reduce")
    until(page, "dashboard.followers().length > 3")
    page.get_by_role("slider", name="frame", exact=True).fill("20")
    until(page, "dashboard.followers().every((v) => Math.floor(v.currentTime * 24) === 20)")


def test_the_page_says_when_its_server_is_gone(browser, tmp_path, clips):
    folder = write_sweep(tmp_path, AXES_24, clips)
    command = [sys.executable, "launch.py", "dashboard", str(folder), "--serve", "--port", "0"]
    # A process started in the background ignores SIGINT, and so would its children.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            page = browser.new_page()
            page.goto(url)
            assert page.locator("#home").is_hidden()
            os.kill(server.pid, signal.SIGINT)
            assert server.wait(timeout=20) == 0
        finally:
            server.kill()
    until(page, "document.getElementById('freshness').textContent.includes('does not answer')")
    page.close()


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
