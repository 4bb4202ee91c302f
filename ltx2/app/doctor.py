"""`ltx2 doctor`: what this machine offers, and what is missing for a run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from ltx2 import __version__
from ltx2.backends import CLASSES, installed, open_backend
from ltx2.errors import UserError
from ltx2.pipelines.catalogue import conf_folder


def main(arguments: list[str]) -> int:
    """Print the report; 1 when no backend or no video encoder works."""
    if arguments:
        raise UserError(f"ltx2 doctor takes no arguments, not {' '.join(arguments)}")
    healthy = True
    for name, text, good in report():
        healthy = healthy and good
        sys.stdout.write(f"{name:10} {text}\n")
    return 0 if healthy else 1


def report() -> Iterator[tuple[str, str, bool]]:
    """Rows of name, finding, and whether runs are possible with it."""
    yield "ltx2", __version__, True
    yield "python", f"{platform.python_version()} on {platform.platform()}", True
    yield "memory", _memory(), True
    yield "config", str(conf_folder()), True
    models = Path(os.environ.get("LTX2_MODELS", "models"))
    yield "models", f"{models.resolve()}{'' if models.is_dir() else ' (absent)'}", True
    backends = list(_backends())
    works = any(good for _, _, good in backends)
    for name, text, _ in backends:
        yield name, text, works
    yield _video()


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return f"{os.cpu_count()} CPU cores"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total / 1e9:.1f} GB, {os.cpu_count()} CPU cores"


def _backends() -> Iterator[tuple[str, str, bool]]:
    from ltx2.weights.dtype_policy import dtype_policy

    for name in CLASSES:
        if name not in installed():
            yield name, f"not installed; pip install 'ltx2[{name}]'", False
            continue
        try:
            backend = open_backend(name)
        except Exception as error:  # a broken installation is a finding, not a crash
            yield name, f"{type(error).__name__}: {error}", False
            continue
        facts = backend.describe()
        dtypes = dtype_policy(backend)
        text = f"{facts['version']}, device {facts['device']} ({facts['device_name']})"
        yield name, f"{text}, transformer in {dtypes['transformer']}", True


def _video() -> tuple[str, str, bool]:
    try:
        import av
    except ImportError as error:
        return "video", f"PyAV cannot be imported: {error}", False
    missing = [name for name in ("libx264", "aac") if name not in av.codecs_available]
    text = f"PyAV {av.__version__}" + (f", without {', '.join(missing)}" if missing else "")
    return "video", text, not missing
