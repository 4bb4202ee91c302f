"""`python -m ltx2.parity DIR`: run the golden cases below DIR here and report the errors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltx2.backends import CLASSES, installed, open_backend
from ltx2.errors import UserError
from ltx2.media.atomic import check_writable, replacing
from ltx2.parity.runner import Result, find_cases, run_case


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all cases pass, 1 some fail, 2 nothing could be run."""
    options = _parser().parse_args(argv)
    try:
        folders = find_cases(options.dir, options.case or ["*"])
        backends = [open_backend(name, device=options.device) for name in _names(options.backend)]
        if options.json:
            check_writable(options.json.parent)
        if options.json and options.json.is_dir():
            raise UserError(f"--json {options.json} is a folder; give the name of a file")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = _run_all(folders, backends, options.dtype)
    if options.json:
        with replacing(options.json) as path:
            record = {"cases": [result.record() for result in results]}
            path.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(result.passed for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ltx2.parity", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder with cases/, checkpoints/")
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{', '.join(CLASSES)} or all; may repeat (default: the first that is installed)",
    )
    parser.add_argument(
        "--case", action="append", metavar="GLOB", help="names of cases; may repeat (default: all)"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, gpu (MLX) ...")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    return parser


def _names(asked: Sequence[str] | None) -> list[str]:
    available = installed()
    if not available:
        raise UserError("no backend is installed; pip install 'ltx2[torch]' or 'ltx2[mlx]'")
    if not asked:
        return available[:1]
    names = [name for item in asked for name in (available if item == "all" else [item])]
    return list(dict.fromkeys(names))


def _run_all(folders: Sequence[Path], backends: Sequence[Any], dtype: str) -> list[Result]:
    width = max(len("case"), *(len(folder.name) for folder in folders))
    print(
        f"{'case':{width}}  backend  max abs  max rel     rtol     atol  result  seconds",
        flush=True,
    )
    results = []
    for backend in backends:
        for folder in folders:
            result = run_case(folder, backend, dtype)
            backend.free()
            results.append(result)
            print(_row(result, width), flush=True)
    for backend in backends:
        print(_summary(backend, dtype, [r for r in results if r.backend == backend.name]))
    return results


def _row(result: Result, width: int) -> str:
    numbers = (result.max_abs, result.max_rel, result.rtol, result.atol)
    cells = "  ".join(f"{'-' if n is None else format(n, '.1e'):>7}" for n in numbers)
    verdict = "pass" if result.passed else "FAIL"
    row = f"{result.case:{width}}  {result.backend:7}  {cells}  {verdict:6}  {result.seconds:7.2f}"
    return f"{row}  {result.message}".rstrip()


def _summary(backend: Any, dtype: str, results: Sequence[Result]) -> str:
    passed, seconds = sum(r.passed for r in results), sum(r.seconds for r in results)
    return (
        f"{backend.name} on {backend.device}, {dtype}: {passed} of {len(results)} cases pass"
        f" in {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
