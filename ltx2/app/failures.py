"""What a failure looks like from outside: one line and an exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ltx2.errors import UserError

USER, INTERNAL = 2, 1
_NO_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate", "malloc")


@dataclass(frozen=True)
class Failure:
    """`expected` failures are explained by their line; others need their traceback."""

    line: str
    code: int
    expected: bool = True


def failure_of(error: Exception) -> Failure:
    """The line and exit code of `error`."""
    if isinstance(error, UserError):
        return Failure(f"error: {error}", USER)
    if _is_out_of_memory(error):
        return Failure(
            f"error: out of memory ({_first_line(error)}); use a smaller height, width or frames,"
            " tiling=both, guidance.max_batch=1 or dtype=bf16",
            INTERNAL,
            expected=False,
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return Failure(f"error: the disk is full{where}; free space or set paths.outputs", USER)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"error: {error.strerror}: {error.filename}", USER, expected=False)
    return Failure(
        f"internal error: {type(error).__name__}: {_first_line(error)}"
        " (debug=true shows the traceback)",
        INTERNAL,
        expected=False,
    )


def _is_out_of_memory(error: Exception) -> bool:
    # Named by class and text: torch and MLX must not be imported to recognise their errors.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
