"""Every golden case that must pass, on every installed backend."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import GOLDEN

from ltx2.parity import registry
from ltx2.parity.runner import run_case

# Whole areas, for the checkpoints of LTX-2 and LTX-2.3 and for functions without a checkpoint.
AREAS = {
    "audio", "lora", "media", "noise", "patchify", "positions", "rope", "scheduler", "step",
    "text", "timestep", "transformer", "upsampler", "video_vae",
}  # fmt: skip
SINGLE = (
    "guider__multimodal",
    "loop__euler",
    "conditioning__none",
    "conditioning__latent_index",
    "e2e__one_stage_ltx2",
    "e2e__two_stage_ltx2",
    "e2e__distilled_ltx2",
)
# Cases beyond those that pass as well, as patterns.
FURTHER: tuple[str, ...] = (
    "audio__ltx25_vae",
    "conditioning__*",
    "duration__head",
    "e2e__*_ltx2",
    "e2e__*_ltx2_*",
    "e2e__*_ltx23*",
    "e2e__distilled_ltx25",
    "e2e__distilled_ltx25_diffusion_decoder",
    "fp8__*",
    "guider__*",
    "loop__*",
    "text__*",
    "transformer__ltx25*",
    "video_vae__diffusion_*",
    "video_vae__ltx25*",
)
LATER = ("ltx-2.5", "gemma-4", "gemma4")


def is_required(folder: Path) -> bool:
    """Whether the case in `folder` belongs to the areas and checkpoints that are built."""
    if folder.name in SINGLE or any(fnmatchcase(folder.name, p) for p in FURTHER):
        return True
    record = json.loads((folder / "case.json").read_text())
    files = record["checkpoint"] or []
    files = [files] if isinstance(files, str) else files
    return record["area"] in AREAS and not any(name in f for f in files for name in LATER)


REQUIRED = sorted(f.name for f in (GOLDEN / "cases").iterdir() if is_required(f))


def test_the_selection_names_existing_cases():
    folders = {f.name for f in (GOLDEN / "cases").iterdir()}
    assert set(SINGLE) <= folders
    assert all(any(fnmatchcase(name, p) for name in folders) for p in FURTHER)
    assert {name.partition("__")[0] for name in REQUIRED} >= AREAS


def test_components_never_read_the_recorded_outputs():
    for path in Path(registry.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.stem not in ("registry", "runner"):
            assert ".outputs" not in text and "outputs.safetensors" not in text, path.name


@pytest.mark.parametrize("name", REQUIRED)
def test_golden(backend, name):
    result = run_case(GOLDEN / "cases" / name, backend)
    assert result.passed, result.message
