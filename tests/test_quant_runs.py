"""Quantisation as a setting: what a run does with it, and what is refused before weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.video import read_video
from ltx2.pipelines.memory import transformer_need
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.quantisation import check_device
from ltx2.weights.header import read_header
from ltx2.weights.quantise import Quantisation
from ltx2.weights.quantise_file import save_quantised

QUICK = ["pipeline=one_stage", "scheduler.steps=1", "frames=9", "dtype=fp32", "cache=off"]


def run(folder, name, *overrides):
    """(frames in [0, 1], the record) of a run of the pocket model."""
    backend = make_backend(name)
    clip = generate(compose([*QUICK, *overrides]), lambda: backend, folder)
    record = json.loads((folder / "run.json").read_text())
    return read_video(clip)[0] / np.float32(255), record


def plan(*overrides):
    return make_plan(compose([*QUICK, *overrides]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The pocket model, saved in 8 bits."""
    source = plan().headers["checkpoint"]
    path = tmp_path_factory.mktemp("saved") / "ltx-2-pocket-int8.safetensors"
    return save_quantised(source, path, Quantisation("int8"), make_backend("torch"), "fp32")


def test_a_quantised_run_and_one_of_the_saved_file_make_the_same_clip(tmp_path, backend, saved):
    plain, _ = run(tmp_path / "plain", backend.name)
    made, record = run(tmp_path / "made", backend.name, "quant=int8")
    again, _ = run(tmp_path / "saved", backend.name, f"model.files.checkpoint.file={saved}")
    difference = np.abs(made - plain).mean()
    assert 1e-5 < difference < 0.02
    # A codec stands between equal latents and the frames that are compared.
    np.testing.assert_allclose(again, made, atol=2 / 255)
    assert record["settings"]["quant"]["blocks"] == "int8"


def test_the_text_encoder_is_quantised_by_its_own_setting(tmp_path, backend):
    plain, _ = run(tmp_path / "plain", backend.name)
    made, _ = run(tmp_path / "made", backend.name, "quant.text=int8", "quant.group_size=32")
    assert 1e-6 < np.abs(made - plain).mean() < 0.03


def test_the_placement_counts_quantised_weights(saved):
    whole = transformer_need(plan(), "fp32").weights
    assert transformer_need(plan("quant=int8"), "fp32").weights < 0.6 * whole
    assert transformer_need(plan("quant=int4", "quant.blocks=int4"), "fp32").weights < 0.5 * whole
    stored = transformer_need(plan(f"model.files.checkpoint.file={saved}"), "fp32").weights
    assert stored == transformer_need(plan("quant=int8"), "fp32").weights


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["quant.blocks=int7"], r"quant.blocks=int7 is unknown.*use none, unpack, fp8, fp8-cast"),
        (["quant.text=bf16"], r"quant.text=bf16 is unknown"),
        (["quant.blocks=int8", "quant.group_size=16"], "group_size=16 is not one of 32, 64, 128"),
        (["quant.blocks=fp8", "quant.group_size=32"], "group_size=32 has no effect"),
        (["quant.keep=[a]"], "quant.keep has no effect"),
        (["quant=int8", "quant.keep=[blocks.*]"], "'blocks.*' matches no layer.*attn1.to_q'"),
        (["quant=unpack"], "is not quantised; use none, or a mode that quantises it: fp8"),
        (["quant.fp8_matmul=true"], "has none; use a float8 file or quant.blocks=fp8"),
        (["quant=int8", "quant.fp8_matmul=true"], "with quant.blocks=int8 has none"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(given, line):
    with pytest.raises(UserError, match=line) as error:
        plan(*given)
    assert "\n" not in str(error.value)


def test_a_device_without_float8_products_is_told_so(backend):
    settings = plan("quant=fp8", "quant.fp8_matmul=true").settings
    with pytest.raises(UserError, match=r"needs a CUDA device of compute capability 8\.9"):
        check_device(settings, backend)
    check_device(plan("quant=fp8").settings, backend)


def test_fused_loras_are_refused_with_packed_weights(tmp_path, saved):
    source = read_header(plan().files["checkpoint"])
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    out, width = source.tensors[f"model.{layer}.weight"].shape
    from safetensors.numpy import save_file

    factors = {
        f"{layer}.lora_A.weight": np.ones((1, width), np.float32),
        f"{layer}.lora_B.weight": np.ones((out, 1), np.float32),
    }
    save_file(factors, tmp_path / "lora.safetensors")
    lora = ["lora=user", f"lora.user.file={tmp_path / 'lora.safetensors'}", "lora.user.fused=true"]
    plan(*lora, "quant=fp8")
    with pytest.raises(UserError, match=r"quant.blocks=int8; set lora.user.fused=false"):
        plan(*lora, "quant=int8")
    with pytest.raises(UserError, match="a file quantised as packed"):
        plan(*lora, f"model.files.checkpoint.file={saved}")
