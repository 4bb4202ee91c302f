"""Outputs appear whole or not at all: written under a temporary name, renamed when complete."""

from __future__ import annotations

import errno
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltx2.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def check_writable(folder: str | Path) -> Path:
    """Create `folder` if needed and prove that a file can be written there.

    Raises UserError naming the folder. Meant to be called before any expensive work.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to folder {folder}: {error.strerror or error}; choose another folder"
        ) from error
    return folder


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; renamed to it on success, removed on any exception.

    The temporary may become a file or a folder. A full disk becomes a UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        free_bytes = shutil.disk_usage(path.parent).free if is_full else 0
        _remove(temporary)
        if is_full:
            raise UserError(
                f"disk full while writing {path}: {free_bytes / 2**20:.1f} MiB were free; "
                "make room or choose another folder"
            ) from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
