"""`ltx2 resume SWEEP_DIR`: run what is left of a sweep."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ltx2.errors import UserError


def main(arguments: list[str]) -> int:
    """Repeat the command that a sweep's plan.json records, in its folder; the exit code.

    The folder may have been moved. The command is repeated where it was typed, if that is still
    there, since its paths may be relative.
    """
    from ltx2.app.main import launch
    from ltx2.app.prompts import override
    from ltx2.experiment.sweep.plan import read_plan

    parser = argparse.ArgumentParser(
        prog="ltx2 resume", description="Run the cells of a sweep that are not finished."
    )
    parser.add_argument("folder", type=Path, metavar="SWEEP_DIR")
    parser.add_argument(
        "overrides", nargs="*", help="more overrides of how it is run, as sweep.max_failures=3"
    )
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    plan = read_plan(folder)
    if plan is None:
        raise UserError(f"{given.folder} is no sweep: it has no plan.json; see outputs/sweeps")
    if plan.directory and Path(plan.directory).is_dir():
        os.chdir(plan.directory)
    kept = [text for text in plan.command if not text.startswith("hydra.sweep.dir=")]
    named = {text.partition("=")[0] for text in given.overrides}
    kept = [text for text in kept if text.partition("=")[0] not in named]
    command = [*kept, *given.overrides, override("hydra.sweep.dir", str(folder))]
    if command[0] == "rerun":
        from ltx2.app.commands.rerun import main as rerun

        return rerun(command[1:])
    return launch(command)
