"""`ltx2 pull`: fetch the files of a model that a pipeline needs and this machine lacks."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.app.compose import compose
from ltx2.app.groups import config_folders, groups
from ltx2.app.overrides import check_overrides, explain
from ltx2.errors import UserError

if TYPE_CHECKING:
    from ltx2.app.schema import Root


def main(arguments: list[str]) -> int:
    """Run `ltx2 pull MODEL [--pipeline NAME] [KEY=VALUE ...]`."""
    from ltx2.app.downloads import download
    from ltx2.pipelines.files import find_files
    from ltx2.pipelines.presets import with_release

    parser = argparse.ArgumentParser(prog="ltx2 pull", description=__doc__)
    parser.add_argument("model", help="an option of the group model, such as distilled-fp8")
    parser.add_argument("--pipeline", help="what will be run (default: the usual one)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run")
    given = parser.parse_intermixed_args(arguments)
    overrides = [f"model={given.model}", *given.overrides]
    if given.pipeline is not None:
        overrides.insert(1, f"pipeline={given.pipeline}")
    settings = _composed(overrides)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    download(settings)
    for role, path in find_files(with_release(settings)).items():
        sys.stdout.write(f"{role:18} {_size(path):>9}  {path}\n")
    return 0


def _composed(overrides: list[str]) -> Root:
    from ltx2.app.effects import check_required

    known = groups(*config_folders([]))
    check_overrides(overrides, known)
    try:
        settings = compose(overrides)
    except UserError:
        raise
    except Exception as error:  # Hydra's own
        line = explain(error, overrides, known)
        if line is None:
            raise
        raise UserError(line.removeprefix("error: ")) from error
    check_required(settings)
    return settings


def _size(path: Path) -> str:
    files = path.iterdir() if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e9:.2f} GB"
