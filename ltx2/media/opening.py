"""Opening audio and video files, with every way that can fail said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.errors import MissingFile, UserError

if TYPE_CHECKING:
    from av.container import InputContainer


@contextmanager
def opened(path: str | Path) -> Iterator[InputContainer]:
    """A PyAV container; unreadable or damaged files raise UserError, also while decoding."""
    import av

    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one video or audio file")
    if not path.exists():
        raise MissingFile(f"{path} does not exist; check the path")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be read as video or audio ({error.strerror}); "
            "it is damaged or in an unknown format"
        ) from error
