"""`ltx2 dashboard [FOLDER]`: write, open or serve the pages over runs and sweeps."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from ltx2.errors import UserError

DEFAULT = Path("outputs")


def main(arguments: list[str]) -> int:
    """Write the pages of FOLDER and print the path of the first, or serve them until Ctrl-C."""
    options = _parser().parse_args(arguments)
    folder: Path = options.folder
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of the outputs, or of a sweep")
    is_sweep = (folder / "plan.json").is_file()
    if not is_sweep and any((folder / name).is_file() for name in ("run.json", "config.yaml")):
        raise UserError(f"{folder} is a single run; give the folder of the outputs, or of a sweep")
    return _serve(folder, options) if options.serve else _write(folder, is_sweep, options.open)


def _write(folder: Path, is_sweep: bool, show: bool) -> int:
    from ltx2.experiment.dashboard import write_index_page, write_sweep_page
    from ltx2.experiment.dashboard.index_data import sweep_folders

    if is_sweep:
        page = write_sweep_page(folder)
    else:
        for sweep in sweep_folders(folder):
            try:
                write_sweep_page(sweep)
            except UserError as error:  # one damaged sweep must not hide the others
                sys.stderr.write(f"warning: {error}\n")
        page = write_index_page(folder)
    sys.stdout.write(f"{page}\n")
    if show and not webbrowser.open(page.resolve().as_uri()):
        raise UserError(f"no browser could be started; open {page.resolve().as_uri()}")
    return 0


def _serve(folder: Path, options: argparse.Namespace) -> int:
    from ltx2.experiment.dashboard.serve import open_server, page_url

    with open_server(folder, options.port) as server:
        sys.stdout.write(f"{page_url(server)}  (Ctrl-C ends)\n")
        sys.stdout.flush()
        if options.open:
            webbrowser.open(page_url(server))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ltx2 dashboard", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=DEFAULT, metavar="FOLDER",
        help="an outputs folder (default: outputs) or the folder of one sweep",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--serve", action="store_true", help="serve the pages on this machine, updated live"
    )
    parser.add_argument(
        "--port", type=int, default=8765, help="port of --serve (default: 8765; 0: a free one)"
    )
    return parser
