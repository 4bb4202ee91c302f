"""Runs golden cases and compares their outputs; one bad case never stops the others."""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ltx2.parity
from ltx2.errors import UserError, nearest
from ltx2.parity.registry import RUNNERS, Case, tolerance


@dataclass(frozen=True)
class Difference:
    """How far one output is off. `excess`: the largest error in units of what is allowed."""

    name: str
    max_abs: float
    max_rel: float  # max_abs over the largest stored magnitude
    excess: float
    rtol: float
    atol: float
    problem: str = ""


@dataclass(frozen=True)
class Result:
    """One case on one backend; the numbers are None where nothing could be compared."""

    case: str
    backend: str
    passed: bool
    seconds: float
    max_abs: float | None = None
    max_rel: float | None = None
    rtol: float | None = None
    atol: float | None = None
    message: str = ""

    def record(self) -> dict[str, Any]:
        """What `--json` stores."""
        keys = ("case", "backend", "passed", "max_abs", "max_rel", "seconds", "message")
        return {key: getattr(self, key) for key in keys}


@cache
def load_components() -> dict[str, str]:
    """Import every module of this package that registers components; module -> import error."""
    errors = {}
    for module in pkgutil.iter_modules(ltx2.parity.__path__):
        if module.name.startswith("__") or module.name in ("runner", "registry"):
            continue
        try:
            importlib.import_module(f"{ltx2.parity.__name__}.{module.name}")
        except Exception as error:
            errors[module.name] = one_line(error)
    return errors


def find_cases(root: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
    """The case folders below `root`/cases whose names match a pattern, sorted.

    Raises UserError when there is no such folder, no case in it, or none that matches.
    """
    folder = root / "cases"
    if not folder.is_dir():
        raise UserError(
            f"{root} has no folder 'cases'; give the folder that holds cases/ and checkpoints/"
        )
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if not found:
        raise UserError(f"{folder} is empty; each case is a folder with a case.json")
    chosen = [path for path in found if any(fnmatchcase(path.name, p) for p in patterns)]
    if not chosen:
        asked = ", ".join(patterns)
        raise UserError(
            f"no case matches '{asked}'{nearest(asked, [path.name for path in found])}"
            f" ({len(found)} cases, for example {found[0].name})"
        )
    return chosen


def run_case(folder: Path, backend: Any, dtype: str = "fp32") -> Result:
    """Run one case and compare every stored output. Never raises for a bad case."""
    start = time.perf_counter()
    try:
        case = Case(folder, backend, dtype)
        differences = compare(case.record, case.outputs, _run(case))
    except Exception as error:
        seconds = time.perf_counter() - start
        return Result(folder.name, backend.name, False, seconds, message=one_line(error))
    return _judge(folder.name, backend.name, differences, time.perf_counter() - start)


def _run(case: Case) -> dict[str, np.ndarray]:
    errors = load_components()
    if case.component not in RUNNERS:
        broken = "".join(f"; ltx2.parity.{name}: {error}" for name, error in errors.items())
        raise UserError(
            f"component '{case.component}' is unknown{nearest(case.component, RUNNERS)}{broken}"
        )
    return RUNNERS[case.component](case)


def compare(
    record: dict[str, Any], stored: dict[str, np.ndarray], got: dict[str, np.ndarray]
) -> list[Difference]:
    """One difference per stored output, by the rule |got - stored| <= atol + rtol * |stored|.

    Names under `exact_outputs` must be equal. Outputs of `got` that are not stored are ignored.
    """
    exact = set(record.get("exact_outputs") or ())
    differences = []
    for name, want in stored.items():
        limits = (0.0, 0.0) if name in exact else tolerance(record, name)
        differences.append(_difference(name, want, got.get(name), *limits))
    return differences


def _difference(name: str, want: np.ndarray, given: Any, rtol: float, atol: float) -> Difference:
    def refused(problem: str) -> Difference:
        return Difference(name, math.inf, math.inf, math.inf, rtol, atol, problem)

    if given is None:
        return refused(f"'{name}' is missing")
    got = np.asarray(given)
    if got.shape != want.shape:
        return refused(f"'{name}' has shape {list(got.shape)} instead of {list(want.shape)}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    if np.isnan(got).any():
        return refused(f"'{name}' has {np.count_nonzero(np.isnan(got))} NaN of {got.size}")
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))  # equal infinities are no error
        allowed = atol + rtol * np.abs(want)
        excess = float(np.where(error > 0, error / allowed, 0.0).max(initial=0.0))
    max_abs = float(error.max(initial=0.0))
    size = float(np.abs(want).max(initial=0.0))
    max_rel = max_abs / size if size else max_abs
    problem = ""
    if not excess <= 1:
        where = [int(i) for i in np.unravel_index(np.argmax(error), error.shape)]
        problem = f"'{name}' is off by {max_abs:.1e} at {where}"
    return Difference(name, max_abs, max_rel, excess, rtol, atol, problem)


def _judge(case: str, backend: str, differences: list[Difference], seconds: float) -> Result:
    if not differences:
        return Result(case, backend, False, seconds, message="the case stores no outputs")
    worst = max(differences, key=lambda d: d.excess)
    failed = [d for d in differences if d.problem]
    message = worst.problem
    if len(failed) > 1:
        message += f" ({len(failed)} of {len(differences)} outputs fail)"
    return Result(
        case,
        backend,
        not failed,
        seconds,
        _finite(max(d.max_abs for d in differences)),
        _finite(max(d.max_rel for d in differences)),
        worst.rtol,
        worst.atol,
        message,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def one_line(error: Exception) -> str:
    """The first line of an error, with its type unless it is a message for users."""
    text = str(error).strip().splitlines()
    first = text[0].strip() if text else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
