"""Every released variant by its name, from headers alone; and the places where files are found."""

from __future__ import annotations

import json
from pathlib import Path

import described_models as described
import pytest

from ltx2.app.compose import compose
from ltx2.app.groups import group_options
from ltx2.errors import MissingFile
from ltx2.pipelines.catalogue import conf_folder
from ltx2.pipelines.files import find_files, places
from ltx2.pipelines.planning import make_plan
from ltx2.weights.checkpoint import identify
from ltx2.weights.hub_cache import cached, is_whole

NAMES = [n for n in group_options(conf_folder(), "model") if n not in ("path", "pocket")]
REPO = "Lightricks/LTX-2"
FILE = "ltx-2-19b-dev.safetensors"
# Sizes known to the byte, without the header where it was computed (spec loading.md 2, 4).
EXACT = {"distilled-fp8": 27_127_589_812, "2.3-distilled": 46_149_345_334}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with every released file that a clip needs, of full length and without data."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        files = compose([f"model={name}"]).model.files
        generation = name[:3] if name.startswith("2.") else "2.0"
        if generation == "2.5":
            described.split_model(folder, name.removeprefix("2.5-"))
            continue
        stored = name.rpartition("-")[2] if name.endswith(("fp8", "fp4")) else "bf16"
        described.checkpoint(folder / files["checkpoint"].file, generation, stored)
        for role, make in (
            ("text_encoder", described.gemma),
            ("spatial_upscaler", lambda path: described.upscaler(path, mid_channels=1024)),
            ("distilled_lora", lambda path, g=generation: described.distilled_lora(path, g)),
        ):
            path = folder / files[role].file
            if not path.exists():
                make(path)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_released_variant_composes_and_plans_from_its_headers(name, models):
    pipeline = "distilled" if "distilled" in name else "two_stage"
    options = [f"model={name}", f"pipeline={pipeline}", f"paths.models={models}", "frames=9"]
    if name == "2.5-dev":  # the small transformer that stands for it has two blocks
        options += [f"guidance.{stream}.stg_blocks=[1]" for stream in ("video", "audio")]
    plan = make_plan(compose([*options, "height=512", "width=768"]))
    identity = identify(plan.header_of("checkpoint"))
    assert identity.generation == (name[:3] if name.startswith("2.") else "2.0")
    stored = {"fp8": "scaled fp8", "fp4": "nvfp4"}.get(name.rpartition("-")[2], "none")
    if not name.startswith("2.5"):  # small files stand for those
        assert identity.quantisation.startswith(stored)
    assert [stage.name for stage in plan.settings.pipeline.stages if stage.do == "sample"]


@pytest.mark.parametrize("name", NAMES)
def test_a_released_variant_says_where_each_file_comes_from(name):
    files = compose([f"model={name}"]).model.files
    for role, file in files.items():
        assert file.source.count("/") == 1, role
        assert file.sha256 is None or len(file.sha256) == 64
    if name in EXACT:
        assert files["checkpoint"].bytes == EXACT[name]


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("2.5")])
def test_stated_sizes_are_those_of_the_described_files(name, models):
    files = compose([f"model={name}"]).model.files
    # Which layers of a quantised file stay wide is known only roughly.
    wide = 0.05 if name.endswith(("fp8", "fp4")) else 0.005
    for role, tolerance in {"checkpoint": wide, "spatial_upscaler": 0.005}.items():
        if files[role].bytes is not None:
            size = (models / files[role].file).stat().st_size
            assert size == pytest.approx(files[role].bytes, rel=tolerance), role


def settings(folder: Path):
    return compose(["model=dev", "pipeline=decode_latents", f"paths.models={folder}",
                    "input.latents=x.safetensors"])  # fmt: skip


@pytest.mark.parametrize(
    "place",
    [
        FILE,
        f"LTX-2/{FILE}",
        f"checkpoints/{FILE}",
        f"checkpoints/video/{FILE}",
        f"models/checkpoints/{FILE}",
    ],
)
def test_a_file_is_found_in_ones_own_folder_and_in_comfyuis(place, tmp_path):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"x")
    assert find_files(settings(tmp_path))["checkpoint"] == tmp_path / place


def test_a_published_folder_is_not_needed_to_find_a_file(tmp_path):
    name = "ltx-2.5-video-vae-bf16.safetensors"
    (tmp_path / name).write_bytes(b"x")
    assert tmp_path / name in places(f"vae/{name}", tmp_path)


def snapshot(cache: Path, repo: str, commit: str, name: str) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(commit.encode())
    return folder / name


def test_a_file_in_the_hubs_cache_is_found_last(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = snapshot(tmp_path / "hub", REPO, "a" * 40, FILE)
    models = tmp_path / "models"
    assert find_files(settings(models))["checkpoint"] == kept
    models.mkdir()
    (models / FILE).write_bytes(b"mine")
    assert find_files(settings(models))["checkpoint"] == models / FILE


def test_the_revision_of_main_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    paths = [snapshot(tmp_path / "hub", REPO, digit * 40, FILE) for digit in "abc"]
    refs = tmp_path / "hub" / "models--Lightricks--LTX-2" / "refs"
    refs.mkdir()
    (refs / "main").write_text("b" * 40)
    assert cached(REPO, FILE)[0] == paths[1] and len(cached(REPO, FILE)) == 3


def test_a_cached_folder_counts_only_with_all_its_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    first = snapshot(tmp_path, "google/gemma", "a" * 40, "one.safetensors")
    index = {"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}
    (first.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    assert cached("google/gemma", "") == () and not is_whole(first.parent)
    snapshot(tmp_path, "google/gemma", "a" * 40, "two.safetensors")
    assert cached("google/gemma", "") == (first.parent,)


def test_an_absent_file_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingFile) as error:
        find_files(settings(tmp_path))
    told = str(error.value)
    assert f"checkpoint: {FILE}, 43.3 GB" in told and "download=true" in told
    assert f"hf download {REPO} {FILE} --local-dir {tmp_path}" in told


def test_an_unknown_model_by_path_takes_everything_from_its_header(models):
    files = {
        "checkpoint": "ltx-2.3-22b-distilled-1.1.safetensors",
        "text_encoder": "gemma-3-12b-it-qat-q4_0-unquantized",
    }
    named = [f"model.files.{role}.file={models / file}" for role, file in files.items()]
    options = ["model=path", "pipeline=distilled", f"paths.models={models}", *named]
    model = make_plan(compose(options)).settings.model
    assert (model.generation, model.kind, model.release) == ("2.3", "distilled", "2.3")
    assert model.preset.guidance.video.stg_blocks == [28]
