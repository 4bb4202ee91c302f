"""A real Chromium, and pages of sweeps with real clips."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sweep_files import AXES_24, AXES_200, write_clips, write_sweep
from waiting import until

from ltx2.experiment.dashboard import write_index_page, write_sweep_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic", "--mute-audio",
]  # fmt: skip


# One at a time: Playwright cannot be started twice in a process, and each module has its own.
@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; absent on a developer's machine the tests are skipped."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    missing = [name for name, found in (("chromium", CHROMIUM), ("playwright", sync_playwright))
               if not found]  # fmt: skip
    if missing:
        reason = f"the dashboard's browser tests need {' and '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: apt-get install chromium; pip install playwright")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> list[Path]:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def sweep_24(tmp_path_factory, clips) -> Path:
    """A sweep of 24 cells of which the last four are not completed, with its pages."""
    return _written(write_sweep(tmp_path_factory.mktemp("outputs_24"), AXES_24, clips))


@pytest.fixture(scope="session")
def sweep_200(tmp_path_factory, clips) -> Path:
    """A completed sweep of 200 cells, with its pages."""
    folder = write_sweep(tmp_path_factory.mktemp("outputs_200"), AXES_200, clips, unfinished=False)
    return _written(folder)


def _written(folder: Path) -> Path:
    write_sweep_page(folder)
    write_index_page(folder.parent.parent)
    return folder


@pytest.fixture
def look(browser):
    """Opens a URL and fails the test for anything the page complained about."""
    complaints: list[str] = []
    pages = []

    def open_page(url: str, width: int = 1440, height: int = 900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text)
                if message.type in ("error", "warning") else None)  # fmt: skip
        page.on("pageerror", lambda error: complaints.append(str(error)))
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: complaints.append(f"asked {request.url}")
                if not request.url.startswith((origin, "data:")) else None)  # fmt: skip
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def sweep_page(look, sweep_24):
    """The page of 24 cells, opened from its file, standing still."""
    page = look((sweep_24 / "index.html").as_uri())
    until(page, "dashboard.followers().some((video) => video.readyState >= 2)")
    if page.evaluate("dashboard.clock.playing"):
        page.keyboard.press("Space")
    return page
