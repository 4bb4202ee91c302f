"""Fixtures shared by all tests: the backends, the golden files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
BACKENDS = [n for n in ("torch", "mlx") if importlib.util.find_spec(n)]


def make_backend(name: str):
    """A CPU backend object by name."""
    if name == "torch":
        from ltx2.backends.torch import TorchBackend

        return TorchBackend(device="cpu")
    from ltx2.backends.mlx import MlxBackend

    return MlxBackend(device="cpu")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each installed backend, on the CPU."""
    return make_backend(request.param)


@pytest.fixture
def golden() -> Path:
    """Folder with checkpoints/, media/ and cases/."""
    return GOLDEN
