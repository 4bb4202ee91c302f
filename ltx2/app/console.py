"""What reaches the terminal: per-step lines would tear a progress bar, run.log keeps them."""

from __future__ import annotations

import logging
import sys

STEPS = "ltx2.steps"


class NoStepsOnTerminal(logging.Filter):
    """Drops the per-step lines where a progress bar shows the steps."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name != STEPS or not sys.stderr.isatty()
