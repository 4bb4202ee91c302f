"""Waiting for a page; Playwright's own wait runs a string in the page, which its policy forbids."""

from __future__ import annotations

import time


def until(page, expression: str, seconds: float = 10.0) -> None:
    """Return when the JavaScript `expression` is true; fail the test after `seconds`."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
        page.wait_for_timeout(30)
