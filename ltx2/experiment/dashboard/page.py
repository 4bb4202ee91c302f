"""Writing the pages: one HTML file each, with style, scripts and data inside.

What a person typed (prompts, names, errors) reaches the page only as JSON in a script element that
is not run, and from there only as text nodes. The content security policy allows the page's own
scripts by their hash and nothing from another machine.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ltx2.errors import UserError
from ltx2.experiment.dashboard.index_data import index_data
from ltx2.experiment.dashboard.sweep_data import sweep_data
from ltx2.media.atomic import replacing

PAGE = "index.html"
_SHARED = ("elements.js", "numbers.js", "players.js")
SCRIPTS = {
    "sweep": (
        *_SHARED, "state.js", "clock.js", "controls.js", "tiles.js", "grid.js", "compare.js",
        "table.js", "plots.js", "charts.js", "detail.js", "keys.js", "sweep.js",
    ),
    "index": (*_SHARED, "runs.js"),
}  # fmt: skip


def write_sweep_page(sweep_folder: Path) -> Path:
    """Write `sweep_folder`/index.html from its plan, summary and runs; returns its path."""
    return _write(Path(sweep_folder), sweep_page(Path(sweep_folder)))


def write_index_page(outputs: Path) -> Path:
    """Write `outputs`/index.html over all runs and sweeps; returns its path."""
    outputs = Path(outputs)
    if not outputs.is_dir():
        raise UserError(f"{outputs} is no folder; give the folder of the outputs, or of a sweep")
    return _write(outputs, index_page(outputs))


def sweep_page(folder: Path, live: bool = False, alone: bool = False) -> str:
    """HTML of the sweep in `folder`; a live page asks its server for new data.

    A page that stands `alone` has no link to the index over all runs.
    """
    data = sweep_data(folder)
    if alone:
        data["home"] = ""
    return _page("sweep", data["name"], data | stamp(live))


def index_page(outputs: Path, live: bool = False) -> str:
    """HTML of the index over `outputs`."""
    return _page("index", f"runs in {outputs.resolve().name}", index_data(outputs) | stamp(live))


def stamp(live: bool) -> dict[str, Any]:
    """When the data was collected, and whether it will be refreshed."""
    return {"written": round(time.time(), 1), "live": live}


def script_json(data: dict[str, Any]) -> str:
    """JSON that no text in it can end or open a script element, or break a line of script."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(kind: str, title: str, data: dict[str, Any]) -> str:
    script = _scripts(kind)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_asset(f"{kind}.html")).substitute(
        title=html.escape(title),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' file: data:; media-src 'self' file:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'",
        style=_asset("style.css") + _asset(f"{kind}.css"),
        data=script_json(data),
        script=script,
    )


@cache
def _scripts(kind: str) -> str:
    return "\n" + "\n".join(_asset(name) for name in SCRIPTS[kind])


@cache
def _asset(name: str) -> str:
    return (files("ltx2.experiment.dashboard") / "assets" / name).read_text(encoding="utf-8")


def _write(folder: Path, text: str) -> Path:
    path = folder / PAGE
    try:
        # A lone surrogate of a broken file name would otherwise stop the page from being written.
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; use --serve to look without writing"
        ) from error
    return path
