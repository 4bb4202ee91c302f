"""The `ltx2` command; `launch.py` and `python -m ltx2` are the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from ltx2 import __version__
from ltx2.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand of `_COMMANDS`, or generate; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = arguments[0] if arguments else ""
    try:
        if name in _COMMANDS:
            return int(_COMMANDS[name](arguments[1:]) or 0)
        return _generate(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _generate(arguments: list[str]) -> int:
    from ltx2.app.main import launch
    from ltx2.app.prompts import quote_prompts
    from ltx2.pipelines.catalogue import conf_folder

    options = set(quote_prompts(arguments))
    if options & {"--help", "-h"}:
        from ltx2.app.help import help_text

        sys.stdout.write(help_text(conf_folder()))
        return 0
    if "--version" in options:
        sys.stdout.write(f"ltx2 {__version__}\n")
        return 0
    return launch(arguments)


def _inspect(arguments: list[str]) -> int | None:
    from ltx2.inspect_cli import main as inspect

    return inspect(arguments)


def _parity(arguments: list[str]) -> int | None:
    from ltx2.parity.__main__ import main as parity

    return parity(arguments)


def _doctor(arguments: list[str]) -> int:
    from ltx2.app.doctor import main as doctor

    return doctor(arguments)


def _command(module: str) -> Callable[[list[str]], int | None]:
    """`main` of a module of ltx2.app.commands, imported when it is called."""

    def run(arguments: list[str]) -> int | None:
        return importlib.import_module(f"ltx2.app.commands.{module}").main(arguments)

    return run


_COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "generate": _generate,
    "inspect": _inspect,
    "parity": _parity,
    "doctor": _doctor,
} | {
    name: _command(name)
    for name in (
        *("cache", "convert", "dashboard", "diff", "options"),
        *("pull", "rerun", "resume", "show"),
    )
}
