"""Names of output folders, and leaving none behind when a run was refused."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

RUN_LOG = "run.log"
_BY_LAUNCHER = {RUN_LOG, "multirun.yaml"}


def stamp() -> str:
    """`date/time-suffix` of now; the suffix keeps runs of the same second apart."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(3)}"


class _RunLog(logging.FileHandler):
    """A log file that is given up, without a word, where nothing can be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextlib.contextmanager
def run_log(folder: Path) -> Iterator[Callable[[str, BaseException | None], None]]:
    """Copy the log to `folder`/run.log while inside; the file appears with the first line.

    Yields a function that writes a line, with an exception's traceback, to that file alone.
    """
    handler = _RunLog(folder / RUN_LOG, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def write(line: str, error: BaseException | None) -> None:
        trace = None if error is None else (type(error), error, error.__traceback__)
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, line, (), trace)
        handler.handle(record)

    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield write
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def remove_if_unused(folder: Path, root: Path) -> None:
    """Remove a folder that holds only the launcher's files, and parents below `root` left empty."""
    if not folder.is_dir() or any(item.name not in _BY_LAUNCHER for item in folder.iterdir()):
        return
    with contextlib.suppress(OSError):  # not empty: other runs of that day, or a writer elsewhere
        for name in _BY_LAUNCHER:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        root = root.resolve()
        for parent in folder.resolve().parents:
            if root not in parent.parents:
                break
            parent.rmdir()
