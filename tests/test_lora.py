"""LoRA files in three namings, matched strictly, applied beside or into the weights, removed."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw

from ltx2.errors import UserError
from ltx2.models.transformer import Transformer
from ltx2.nn.layers import Linear
from ltx2.nn.lora import FusedLinear, LoraLinear
from ltx2.nn.module import params, slots
from ltx2.parity.registry import Case
from ltx2.parity.transformer import run_forward
from ltx2.pipelines.components.transformer import load_transformer, transformer_config
from ltx2.weights.header import read_header
from ltx2.weights.lora import (
    apply_loras,
    check_generation,
    match_lora,
    read_lora,
    reference_factors,
    remove_loras,
)

RNG = np.random.default_rng(3)


@dataclass
class Toy:
    """Names as at the top and in the blocks of the transformer."""

    patchify_proj: Linear
    to_q: list[Linear]

    def __call__(self, x):
        return self.to_q[1](self.to_q[0](self.patchify_proj(x)))


def toy(backend, dtype="fp32"):
    def linear(seed):
        values = np.random.default_rng(seed).standard_normal((6, 6)).astype(np.float32)
        return Linear(backend.array(values, dtype), backend.array(values[0], dtype))

    return Toy(linear(0), [linear(1), linear(2)])


DOWN, UP = (RNG.standard_normal(s).astype(np.float32) for s in ((2, 6), (6, 2)))
DELTA = UP @ DOWN
NAMINGS = {
    "official": "diffusion_model.{}.lora_{AB}.weight",
    "comfy": "model.diffusion_model.{}.lora_{AB}.weight",
    "diffusers": "transformer.{}.lora_{AB}.weight",
    "peft": "base_model.model.{}.lora_{AB}.default.weight",
    "dotted kohya": "diffusion_model.{}.lora_{updown}.weight",
    "kohya": "lora_unet_{flat}.lora_{updown}.weight",
    "old diffusers": "transformer.{}.lora.{updown}.weight",
}


def named(naming, module, down=DOWN, up=UP):
    fields = {"flat": module.replace(".", "_")}
    pattern = NAMINGS[naming]
    return {
        pattern.format(module, AB="A", updown="down", **fields): f32(down),
        pattern.format(module, AB="B", updown="up", **fields): f32(up),
    }


def write(tmp_path, raw, metadata=None, name="style"):
    return read_lora(write_raw(tmp_path / f"{name}.safetensors", raw, metadata))


def weight(backend, layer):
    return backend.numpy(layer.weight)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_naming_adds_the_same_delta(tmp_path, backend, naming, fused):
    module = toy(backend)
    x = backend.array(RNG.standard_normal((1, 4, 6)).astype(np.float32))
    before = backend.numpy(module.to_q[1](x))
    lora = write(tmp_path, named(naming, "to_q.1"))
    apply_loras(module, [(lora, 0.5)], backend, "fp32", fused)
    got = backend.numpy(module.to_q[1](x)) - before
    np.testing.assert_allclose(got, 0.5 * backend.numpy(x) @ DELTA.T, atol=2e-5)


def test_diffusers_names_of_outer_layers_are_translated(tmp_path, backend):
    lora = write(tmp_path, named("diffusers", "proj_in"))
    (target,) = match_lora(toy(backend), lora)
    assert target.slot.name == "patchify_proj"


@pytest.mark.parametrize(
    ("extra", "metadata", "factor"),
    [
        ({}, {}, 1.0),
        ({"diffusion_model.to_q.0.alpha": f32(np.float32(1.0))}, {}, 0.5),
        ({}, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})}, 2.0),
        ({}, {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "use_rslora": True})}, 8**0.5),
        ({}, {"lora_adapter_metadata": json.dumps({"alpha_pattern": {"to_q.0": 6}})}, 3.0),
    ],
)
def test_alpha_scales_by_alpha_over_rank(tmp_path, backend, extra, metadata, factor):
    raw = named("official", "to_q.0") | extra
    module = toy(backend)
    before = weight(backend, module.to_q[0])
    lora = write(tmp_path, raw, metadata)
    assert lora.pairs[0].factor == pytest.approx(factor)
    apply_loras(module, [(lora, 1.0)], backend, "fp32", fused=True)
    got = weight(backend, module.to_q[0]) - before
    np.testing.assert_allclose(got, factor * DELTA, atol=2e-5)


def test_stacked_loras_sum_with_a_strength_each(tmp_path, backend):
    first = write(tmp_path, named("official", "to_q.0") | named("official", "to_q.1"), name="a")
    up = RNG.standard_normal((6, 3)).astype(np.float32)
    down = RNG.standard_normal((3, 6)).astype(np.float32)
    second = write(tmp_path, named("kohya", "to_q.0", down, up), name="b")
    for fused in (False, True):
        module = toy(backend)
        x = backend.array(np.eye(6, dtype=np.float32)[None])
        before = [backend.numpy(layer(x)) for layer in module.to_q]
        apply_loras(module, [(first, 0.8), (second, -0.35)], backend, "fp32", fused)
        got = [backend.numpy(layer(x)) - y for layer, y in zip(module.to_q, before, strict=True)]
        np.testing.assert_allclose(got[0][0], (0.8 * DELTA - 0.35 * up @ down).T, atol=2e-5)
        np.testing.assert_allclose(got[1][0], 0.8 * DELTA.T, atol=2e-5)


def test_strength_zero_changes_nothing_but_is_still_checked(tmp_path, backend):
    module = toy(backend)
    layers = list(module.to_q)
    apply_loras(module, [(write(tmp_path, named("official", "to_q.0")), 0.0)], backend, "fp32")
    assert all(new is old for new, old in zip(module.to_q, layers, strict=True))
    wrong = write(tmp_path, named("official", "nothing"), name="wrong")
    with pytest.raises(UserError, match="changes nothing"):
        apply_loras(module, [(wrong, 0.0)], backend, "fp32")


def test_switching_back_and_forth_leaves_the_base_untouched(tmp_path, backend):
    lora = write(tmp_path, named("official", "to_q.0"))
    module = toy(backend, "bf16")
    base = module.to_q[0]
    values = weight(backend, base)
    for strength in (1.0, 0.3, -2.0):
        apply_loras(module, [(lora, strength)], backend, "bf16")
        assert isinstance(module.to_q[0], LoraLinear)
        assert module.to_q[0].base is base
    apply_loras(module, [], backend, "bf16")
    assert module.to_q[0] is base
    np.testing.assert_array_equal(weight(backend, base), values)


def test_a_refused_set_leaves_the_active_one(tmp_path, backend):
    module = toy(backend)
    apply_loras(module, [(write(tmp_path, named("official", "to_q.0")), 1.0)], backend, "fp32")
    active = module.to_q[0]
    wrong = write(tmp_path, named("official", "nothing"), name="wrong")
    with pytest.raises(UserError):
        apply_loras(module, [(wrong, 1.0)], backend, "fp32")
    assert module.to_q[0] is active


def test_fused_loras_cannot_be_removed(tmp_path, backend):
    module = toy(backend)
    lora = write(tmp_path, named("official", "to_q.0"))
    apply_loras(module, [(lora, 1.0)], backend, "fp32", fused=True)
    assert isinstance(module.to_q[0], FusedLinear)
    with pytest.raises(UserError, match="fused into 1 layers"):
        remove_loras(module)
    with pytest.raises(UserError, match="fused into 1 layers"):
        apply_loras(module, [(lora, 0.5)], backend, "fp32")


def test_applied_loras_keep_the_dtype_of_the_component(tmp_path, backend):
    module = toy(backend, "bf16")
    x = backend.array(np.ones((1, 2, 6), np.float32), "bf16")
    apply_loras(module, [(write(tmp_path, named("official", "to_q.0")), 0.7)], backend, "bf16")
    assert module.to_q[0](x).dtype == x.dtype == module.to_q[0].up.dtype


def test_file_in_which_nothing_fits_is_refused(tmp_path, backend):
    lora = write(tmp_path, named("official", "down_blocks.0.to_q"))
    words = "none of its 1 pairs names a layer .*'down_blocks.0.to_q', .* 'patchify_proj'"
    with pytest.raises(UserError, match=words):
        match_lora(toy(backend), lora, allow_partial=True)


def test_partial_fit_lists_the_rest_unless_allowed(tmp_path, backend, caplog):
    raw = named("official", "to_q.0") | named("official", "to_q.7")
    lora = write(tmp_path, raw | {"diffusion_model.to_q.0.diff_b": f32(np.ones(6))})
    words = "1 of 2 pairs match, 1 pairs and 1 other tensors do not: to_q.7, .*diff_b"
    with pytest.raises(UserError, match=words):
        match_lora(toy(backend), lora)
    with caplog.at_level(logging.INFO, "ltx2.weights.lora"):
        assert len(match_lora(toy(backend), lora, allow_partial=True)) == 1
    assert "1 of 2 pairs match, rank 2" in caplog.text
    assert "2 entries not used: to_q.7" in caplog.text


def test_text_side_layers_are_left_out_and_logged(tmp_path, backend, caplog):
    raw = named("official", "to_q.0") | named(
        "official", "text_embedding_projection.aggregate_embed"
    )
    with caplog.at_level(logging.INFO, "ltx2.weights.lora"):
        assert len(match_lora(toy(backend), write(tmp_path, raw))) == 1
    assert "left out, text side: text_embedding_projection.aggregate_embed" in caplog.text


def test_other_sizes_are_refused_even_when_partial_is_allowed(tmp_path, backend):
    lora = write(tmp_path, named("official", "to_q.0", np.ones((2, 5), np.float32)))
    with pytest.raises(UserError, match=r"'to_q.0' \[6, 5\] instead of \[6, 6\]"):
        match_lora(toy(backend), lora, allow_partial=True)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"diffusion_model.a.lora_A.weight": f32(DOWN)}, "'diffusion_model.a' has only its down"),
        (named("official", "a", DOWN, UP[:, :1]), r"do not fit each other: down \[2, 6\], up"),
    ],
)
def test_broken_pairs_are_refused(tmp_path, raw, words):
    with pytest.raises(UserError, match=words):
        write(tmp_path, raw)


def test_two_names_for_one_layer_are_refused(tmp_path, backend):
    raw = named("official", "patchify_proj") | named("diffusers", "proj_in")
    with pytest.raises(UserError, match="two pairs for 'patchify_proj'"):
        match_lora(toy(backend), write(tmp_path, raw))


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_a_number(tmp_path, backend, strength):
    lora = write(tmp_path, named("official", "to_q.0"))
    with pytest.raises(UserError, match=f"strength {strength} is not a number"):
        apply_loras(toy(backend), [(lora, strength)], backend, "fp32")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ltx-2-tiny", "given as a LoRA but is an LTX-2.0 model file"),
        ("spatial-upscaler-x2-tiny", "given as a LoRA but is a spatial x2 latent upsampler"),
    ],
)
def test_other_files_given_as_lora_are_named(golden, name, words):
    with pytest.raises(UserError, match=words):
        read_lora(golden / f"checkpoints/{name}.safetensors")


def test_reference_factors_must_agree(golden, tmp_path):
    trained = read_lora(golden / "checkpoints/ic-lora-tiny.safetensors")
    plain = read_lora(golden / "checkpoints/lora-tiny.safetensors")
    assert reference_factors([plain, trained]) == (2, 1)
    assert reference_factors([plain]) == (1, 1)
    other = write(tmp_path, named("official", "a"), {"reference_downscale_factor": "4"})
    with pytest.raises(UserError, match=r"disagree about reference_downscale_factor: .* has 4"):
        reference_factors([trained, other])
    bad = write(tmp_path, named("official", "a"), {"reference_temporal_scale_factor": "half"})
    with pytest.raises(UserError, match="'reference_temporal_scale_factor' is 'half'"):
        reference_factors([bad])


def test_lora_of_another_generation_is_warned_about(golden, tmp_path, caplog):
    raw, _ = read_raw(golden / "checkpoints/lora-tiny.safetensors")
    lora = write(tmp_path, raw, name="ltx-2.3-22b-style")
    check_generation(lora, read_header(golden / "checkpoints/ltx-2.3-tiny.safetensors"))
    assert caplog.text == ""
    check_generation(lora, read_header(golden / "checkpoints/ltx-2-tiny.safetensors"))
    assert "is for LTX-2.3, the model is LTX-2.0" in caplog.text


def test_lora_is_checked_on_a_declared_tree_without_weights(golden):
    config = transformer_config(read_header(golden / "checkpoints/ltx-2-tiny.safetensors"))
    declared = Transformer.declare(config)
    count = len(params(declared))
    for name, pairs in (("lora-tiny", 32), ("ic-lora-tiny", 20), ("distilled-lora-tiny", 63)):
        lora = read_lora(golden / f"checkpoints/{name}.safetensors")
        assert len(match_lora(declared, lora)) == len(lora.pairs) == pairs
    assert len(params(declared)) == count


CASES = ["lora__fuse_one", "lora__fuse_three", "lora__fuse_distilled"]


@pytest.mark.parametrize("name", CASES)
def test_unfused_forward_equals_the_recorded_fused_one(golden, backend, name):
    case = Case(golden / "cases" / name, backend)
    transformer = load_transformer(read_header(case.checkpoints[0]), backend, "fp32")
    stack = [(read_lora(case.root / s["file"]), s["strength"]) for s in case.settings["stack"]]
    apply_loras(transformer, stack, backend, "fp32")
    got = run_forward(case, transformer)
    for key in ("video_velocity", "audio_velocity"):
        np.testing.assert_allclose(got[key], case.outputs[key], rtol=1e-3, atol=1e-4)


def test_bf16_fusion_rounds_exactly_as_the_reference(golden, backend):
    case = Case(golden / "cases/lora__fuse_three", backend)
    transformer = load_transformer(read_header(case.checkpoints[0]), backend, "bf16")
    stack = [(read_lora(case.root / s["file"]), s["strength"]) for s in case.settings["stack"]]
    apply_loras(transformer, stack, backend, "bf16", fused=True)
    held = {slot.name: slot.value for slot in slots(transformer)}
    names = [name for name in case.outputs if name.startswith("weight_bf16.")]
    assert len(names) == 2
    for name in names:
        got = backend.numpy(held[re.sub("^weight_bf16.", "", name)])
        np.testing.assert_array_equal(got, case.outputs[name])
