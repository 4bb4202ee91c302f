"""Who may import whom, read from the source of every file (imports inside functions too)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "ltx2").rglob("*.py"))

# Which parts of ltx2 each part may import, beside itself.
CORE = {"errors", "ops"}
MODEL = CORE | {"nn", "models"}
PIPELINE = MODEL | {"diffusion", "weights", "media", "backends", "pipelines"}
BELOW: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "ops": set(),
    "backends": CORE,
    "nn": CORE,
    "models": CORE | {"nn"},
    "diffusion": MODEL,
    "weights": CORE | {"nn", "models", "media"},
    "media": {"errors"},
    "pocket": {"errors", "media"},
    "pipelines": PIPELINE,
    "experiment": PIPELINE | {"pocket"},
    "training": PIPELINE | {"experiment", "pocket"},
    "app": PIPELINE | {"experiment", "training", "pocket", ""},
}
# The top: checks and single commands use everything but one another; the command line starts them
# all.
TOP = PIPELINE | {"experiment", "pocket", "training", "app", ""}
COMMANDS = TOP | {"cli", "inspect_cli", "parity"}
BELOW |= {"cli": COMMANDS, "__main__": COMMANDS}
FRAMEWORKS = {"torch", "mlx"}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything `path` imports, `from ltx2 import x` as ltx2.x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or ""
            if node.module == "ltx2":
                yield from (f"ltx2.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_by_name(node):
            yield node.args[0].value


def _is_import_by_name(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    text = call.args and isinstance(call.args[0], ast.Constant)
    return bool(name in ("import_module", "__import__") and text)


def part(path: Path) -> str:
    """`models` for ltx2/models/x.py, `ops` for ltx2/ops.py, "" for ltx2/__init__.py."""
    first = path.relative_to(ROOT / "ltx2").parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def parts_used(path: Path) -> set[str]:
    """Parts of ltx2 that `path` imports; `import ltx2` alone is the part ""."""
    names = set(imports(path))
    used = {name.split(".")[1] for name in names if name.startswith("ltx2.")}
    return used - {"__version__"}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_all_parts_are_seen():
    assert {part(f) for f in FILES} >= {"", "errors", "ops", "backends", "nn", "models", "parity"}


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_frameworks_are_imported_only_by_the_backends(path):
    if part(path) not in ("backends", "training"):
        assert not roots(path) & FRAMEWORKS


def test_each_framework_is_imported_by_its_own_backend_only():
    for path in (ROOT / "ltx2" / "backends").rglob("*.py"):
        owner = path.stem.partition("_")[0]
        assert roots(path) & FRAMEWORKS <= {owner}, path


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_nothing_imports_from_a_layer_above(path):
    own = part(path)
    allowed = BELOW.get(own, TOP) | {own}
    assert parts_used(path) <= allowed


def test_ops_reaches_the_backends_by_name_only():
    assert not parts_used(ROOT / "ltx2" / "ops.py") - {"errors"}
    assert "ltx2.backends.torch" in (ROOT / "ltx2" / "ops.py").read_text(encoding="utf-8")


def test_hydra_is_imported_only_by_the_application():
    launchers = {f for f in ROOT.glob("*.py") if "hydra" in roots(f)}
    assert launchers <= {ROOT / "launch.py"}
    users = {part(f) for f in FILES if "hydra" in roots(f)}
    assert users <= {"app"}


def test_no_folder_of_tests_shadows_a_framework():
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()}
    assert not folders & FRAMEWORKS
