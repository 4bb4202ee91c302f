"""The transformer against the specification's golden vectors and published counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformer_models import AUDIO_TOKENS, DATA, GRID, metadata, streams, tiny_transformer

from ltx2.models.transformer import Perturbations, Transformer
from ltx2.models.transformer_config import TransformerConfig
from ltx2.nn.module import parameter_count, params

VALUES = json.loads((DATA / "golden_spec.json").read_text())
SELF_IN_BLOCK_1 = (("video_self", (1,)), ("audio_self", (1,)))
BOTH_CROSSINGS = (("audio_to_video", None), ("video_to_audio", None))
CASES = {
    "t2av": ((0.8, 0.8), None, None),
    "cond": ((0.8, 0.35), [0.0] * 4 + [0.25] * 4 + [1.0] * 4, None),
    "stg": ((0.8, 0.8), None, SELF_IN_BLOCK_1),
    "iso": ((0.8, 0.8), None, BOTH_CROSSINGS),
}
# Two blocks magnify the rounding of angles near 1.6e4 rad; a wrong term is off by 1e-1.
CLOSE = {"rtol": 1e-3, "atol": 5e-4}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
def test_velocities_equal_the_golden_vectors(backend, generation, case):
    sigmas, mask, skipped = CASES[case]
    transformer = tiny_transformer(backend, generation)
    inputs = streams(backend, transformer, sigmas, (mask, None))
    perturbations = None if skipped is None else Perturbations((skipped,))
    video, audio = (backend.numpy(v) for v in transformer(*inputs, perturbations))
    want = VALUES[f"{generation}/{case}"]
    assert video.shape == (1, int(np.prod(GRID)), 16)
    assert audio.shape == (1, AUDIO_TOKENS, 16)
    np.testing.assert_allclose(video.ravel(), want["video"], **CLOSE)
    np.testing.assert_allclose(audio.ravel(), want["audio"], **CLOSE)


def declared(generation: str, **options) -> Transformer:
    return Transformer.declare(TransformerConfig.from_metadata(metadata(generation)), **options)


@pytest.mark.parametrize(
    ("generation", "tensors", "parameters", "block_tensors", "block_parameters"),
    [
        ("2.0", 3510, 18_876_174_592, 3456, 18_531_581_952),
        ("2.3", 4186, 18_988_838_144, 4128, 18_561_377_280),
        ("2.5", 4091, 18_987_859_200, 4032, 18_560_394_240),
    ],
)
def test_published_sizes_follow_from_the_metadata(
    generation, tensors, parameters, block_tensors, block_parameters
):
    transformer = declared(generation)
    assert len(params(transformer)) == tensors
    assert parameter_count(transformer) == parameters
    assert len(params(transformer.transformer_blocks)) == block_tensors
    assert parameter_count(transformer.transformer_blocks) == block_parameters


def test_embedders_have_their_published_sizes():
    old, new = declared("2.0"), declared("2.3")
    assert parameter_count(old.adaln_single) == 118_521_856
    assert parameter_count(old.audio_adaln_single) == 29_900_800
    assert parameter_count(new.adaln_single) == 168_865_792
    assert parameter_count(new.audio_adaln_single) == 42_489_856
    assert parameter_count(old.av_ca_video_scale_shift_adaln_single) == 84_959_232
    assert parameter_count(old.av_ca_audio_scale_shift_adaln_single) == 21_508_096
    assert parameter_count(old.av_ca_a2v_gate_adaln_single) == 34_615_296
    assert parameter_count(old.av_ca_v2a_gate_adaln_single) == 8_919_040


def test_a_video_build_has_no_tensor_of_the_audio_stream():
    names = {slot.name for slot in params(declared("2.3"))}
    alone = {slot.name for slot in params(declared("2.3", streams=("video",)))}
    foreign = ("audio", "av_ca_", "a2v", "v2a")
    assert alone == {name for name in names if not any(part in name for part in foreign)}


def test_an_audio_build_has_only_tensors_of_the_audio_stream():
    names = {slot.name for slot in params(declared("2.0"))}
    alone = {slot.name for slot in params(declared("2.0", streams=("audio",)))}
    heads = ("audio_patchify", "audio_caption", "audio_adaln", "audio_scale", "audio_proj")
    blocks = ("audio_attn1.", "audio_attn2.", "audio_ff.", "audio_scale_shift_table")
    assert alone == {
        name
        for name in names
        if name.startswith(heads)
        or (name.startswith("transformer_blocks") and name.split(".", 2)[2].startswith(blocks))
    }
