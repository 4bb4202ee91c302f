"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "mlx", "transformers", "diffusers", "hydra", "omegaconf", "tokenizers", "av", "PIL",
    "imageio", "scipy", "wandb", "rich", "numpy", "safetensors",
)  # fmt: skip


def loaded(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `statement`."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded("import ltx2") & set(HEAVY)


@pytest.mark.parametrize(
    "module", ["ops", "errors", "backends", "nn.attention", "models.transformer", "inspect_cli"]
)
def test_importing_shared_code_loads_no_framework(module):
    assert not loaded(f"import ltx2.{module}") & {"torch", "mlx", "transformers", "hydra"}


def test_importing_one_backend_leaves_the_other_alone(backend):
    other = {"torch": "mlx", "mlx": "torch"}[backend.name]
    names = loaded(f"import ltx2.backends.{backend.name}")
    assert backend.name in names
    assert other not in names
