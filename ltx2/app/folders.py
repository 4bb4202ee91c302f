"""Names of output folders, and leaving none behind when a run was refused."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

RUN_LOG = "run.log"
_sweeps: list[tuple[Path, Path]] = []
_BY_LAUNCHER = {RUN_LOG, "multirun.yaml"}
SLUG_LENGTH = 60


def stamp() -> str:
    """`date/time-suffix` of now; the suffix keeps runs of the same second apart."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(3)}"


def slug(text: str) -> str:
    """`text` as a folder name of at most `SLUG_LENGTH` characters; other texts, other names."""
    name = re.sub(r"[^A-Za-z0-9.=_-]+", "-", text).strip("-.")
    if name == text and len(name) <= SLUG_LENGTH:
        return name or "default"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: SLUG_LENGTH - 9].strip('-.')}-{digest}"


@contextlib.contextmanager
def run_log(folder: Path) -> Iterator[Callable[[str, BaseException | None], None]]:
    """Copy the log to `folder`/run.log while inside; the file appears with the first line.

    Yields a function that writes a line, with an exception's traceback, to that file alone.
    """
    handler = logging.FileHandler(folder / RUN_LOG, encoding="utf-8", delay=True)
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


def begin_sweep(folder: Path, root: Path) -> None:
    """Note the folder of a sweep below `root`, which Hydra makes before it composes the jobs."""
    _sweeps.append((folder, root))


def remove_unused_sweeps() -> None:
    """Remove the folders of noted sweeps in which no job left anything."""
    while _sweeps:
        remove_if_unused(*_sweeps.pop())
