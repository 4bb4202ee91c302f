"""Behaviour of the transformer: streams, noise levels, masks, dtypes, remembered tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from transformer_models import metadata, streams, tiny_transformer

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.transformer import Memory, Perturbations, denoised, levels
from ltx2.models.transformer_config import CrossRule, TransformerConfig

GENERATIONS = ("2.0", "2.3", "2.5")
STG = Perturbations(((("video_self", (1,)), ("audio_self", None)),))
ISOLATED = Perturbations(((("audio_to_video", None), ("video_to_audio", None)),))


def run(backend, transformer, pair, *options):
    return [None if v is None else backend.numpy(v) for v in transformer(*pair, *options)]


def with_rule(transformer, rule):
    config = dataclasses.replace(transformer.config, cross_rule=rule)
    return dataclasses.replace(transformer, config=config)


@pytest.mark.parametrize("rule", [CrossRule.OWN, CrossRule.CROSS])
def test_cross_rules_agree_at_one_noise_level_and_differ_otherwise(backend, rule):
    current = tiny_transformer(backend, "2.3")
    other = with_rule(current, rule)
    equal = streams(backend, current, (0.8, 0.8))
    for a, b in zip(run(backend, current, equal), run(backend, other, equal), strict=True):
        np.testing.assert_array_equal(a, b)
    unequal = streams(backend, current, (0.8, 0.35))
    for a, b in zip(run(backend, current, unequal), run(backend, other, unequal), strict=True):
        assert np.abs(a - b).max() > 1e-3


def test_only_the_own_rule_reads_the_own_mask_in_the_gate(backend):
    """With a zero scale-shift embedder the rules differ in the gate alone."""
    current = tiny_transformer(backend, "2.0")
    for name in ("video", "audio"):
        linear = getattr(current, f"av_ca_{name}_scale_shift_adaln_single").linear
        linear.weight, linear.bias = linear.weight * 0, linear.bias * 0
    mask = [0.0] * 4 + [1.0] * 8
    pair = streams(backend, current, (0.8, 0.8), (mask, None))
    mixed = run(backend, current, pair)
    np.testing.assert_array_equal(
        mixed[0], run(backend, with_rule(current, CrossRule.CROSS), pair)[0]
    )
    assert np.abs(mixed[0] - run(backend, with_rule(current, CrossRule.OWN), pair)[0]).max() > 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_block_returns_the_dtype_of_the_weights(backend, generation, dtype):
    transformer = tiny_transformer(backend, generation, dtype)
    expected = transformer.patchify_proj.weight.dtype
    mask = [0.0] * 4 + [1.0] * 8
    pair = list(streams(backend, transformer, masks=(mask, None)))
    pair[0] = dataclasses.replace(pair[0], attention_mask=np.full((1, 12, 12), 0.5, np.float32))
    seen = []

    def trace(name, index, *states):
        seen.extend((name, index, state.dtype == expected) for state in states)

    velocities = transformer(*pair, STG, trace)
    assert seen == [("block", i, True) for i in (0, 0, 1, 1)]
    for velocity in velocities:
        assert velocity.dtype == expected
        assert np.isfinite(backend.numpy(velocity)).all()


def test_bf16_velocities_stay_near_fp32(backend):
    want, got = (
        run(backend, t, streams(backend, t, dtype=dtype))
        for dtype in ("fp32", "bf16")
        for t in [tiny_transformer(backend, "2.3", dtype)]
    )
    for a, b in zip(want, got, strict=True):
        assert np.abs(a - b).mean() < 0.05 * np.abs(a).mean()


def test_one_stream_alone_equals_its_own_build_and_isolation(backend):
    both = tiny_transformer(backend, "2.3")
    video, audio = streams(backend, both)
    isolated = run(backend, both, (video, audio), ISOLATED)
    for k, (name, pair) in enumerate((("video", (video, None)), ("audio", (None, audio)))):
        single = tiny_transformer(backend, "2.3", streams=(name,))
        alone = run(backend, single, pair)
        assert alone[1 - k] is None
        np.testing.assert_array_equal(alone[k], run(backend, both, pair)[k])
        np.testing.assert_allclose(alone[k], isolated[k], atol=1e-5)


def test_a_missing_stream_is_named(backend):
    video_only = tiny_transformer(backend, "2.3", streams=("video",))
    both = tiny_transformer(backend, "2.3")
    with pytest.raises(UserError, match="without its audio stream"):
        video_only(*streams(backend, both))


def test_a_disabled_stream_is_not_updated_but_still_heard(backend):
    transformer = tiny_transformer(backend, "2.3")
    video, audio = streams(backend, transformer)
    states = []
    disabled = dataclasses.replace(video, enabled=False)
    transformer(disabled, audio, trace=lambda name, i, x, y: states.append(backend.numpy(x)))
    np.testing.assert_array_equal(states[0], states[1])
    heard = run(backend, transformer, (disabled, audio))[1]
    alone = run(backend, transformer, (None, audio))[1]
    assert np.abs(heard - alone).max() > 1e-3


def stack(backend, parts):
    """Streams of one sample each as one batch."""
    joined = {}
    for field in dataclasses.fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
        elif field.name in ("latent", "context"):
            joined[field.name] = ops.concat(values, 0)
        else:
            joined[field.name] = values[0]
    return type(parts[0])(**joined)


def test_a_batch_equals_its_samples(backend):
    """Samples with other noise levels, one with a mask, one perturbed."""
    transformer = tiny_transformer(backend, "2.5")
    mask = [0.0] * 4 + [0.25] * 4 + [1.0] * 4
    samples = [
        streams(backend, transformer, (0.8, 0.8)),
        streams(backend, transformer, (0.5, 0.3), (mask, None)),
        streams(backend, transformer, (0.5, 0.3)),
    ]
    lists = ((), (("video_self", (0,)),), (("audio_to_video", None), ("audio_self", (1,))))
    batch = [stack(backend, [sample[k] for sample in samples]) for k in (0, 1)]
    together = run(backend, transformer, batch, Perturbations(lists))
    for i, sample in enumerate(samples):
        alone = run(backend, transformer, sample, Perturbations((lists[i],)))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=3e-5)


def test_a_full_attention_mask_changes_nothing_and_a_closed_one_hides_tokens(backend):
    transformer = tiny_transformer(backend, "2.0")
    video, _ = streams(backend, transformer)
    count = video.latent.shape[1]
    ones = dataclasses.replace(video, attention_mask=np.ones((1, count, count), np.float32))
    plain = run(backend, transformer, (video, None))[0]
    np.testing.assert_allclose(run(backend, transformer, (ones, None))[0], plain, atol=1e-5)

    closed = np.ones((1, count, count), np.float32)
    closed[:, : count - 4, count - 4 :] = 0
    hidden = dataclasses.replace(video, attention_mask=closed)
    short = dataclasses.replace(
        video,
        latent=video.latent[:, : count - 4],
        timesteps=video.timesteps[:, : count - 4],
        positions=video.positions[:, :, : count - 4],
        keyframes_mask=None,
    )
    got = run(backend, transformer, (hidden, None))[0][:, : count - 4]
    np.testing.assert_allclose(got, run(backend, transformer, (short, None))[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["integer", "additive"])
def test_masked_text_is_as_good_as_absent(backend, kind):
    transformer = tiny_transformer(backend, "2.3")
    video, _ = streams(backend, transformer)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0]])
    if kind == "additive":
        mask = np.where(mask > 0, 0.0, np.finfo(np.float32).min).astype(np.float32)
    masked = dataclasses.replace(video, context_mask=mask)
    short = dataclasses.replace(video, context=video.context[:, :4])
    got = run(backend, transformer, (masked, None))[0]
    np.testing.assert_allclose(got, run(backend, transformer, (short, None))[0], atol=1e-5)


def test_the_marker_moves_only_models_that_have_it(backend):
    for generation, moves in (("2.3", False), ("2.5", True)):
        transformer = tiny_transformer(backend, generation)
        video, _ = streams(backend, transformer)
        bare = dataclasses.replace(video, keyframes_mask=None)
        a, b = (run(backend, transformer, (v, None))[0] for v in (video, bare))
        assert (np.abs(a - b).max() > 1e-3) == moves


def test_embedders_see_each_noise_level_once(backend):
    ref = backend.array(np.zeros(1, np.float32))
    one = levels(np.full((2, 5), 800, np.float32), ref)
    assert one.values.tolist() == [800]
    assert one.index is None
    per_sample = levels(np.array([[3.0] * 4, [1.0] * 4], np.float32), ref)
    assert backend.numpy(per_sample.index).tolist() == [[1], [0]]
    per_token = levels(np.array([[0.0, 5.0, 5.0]], np.float32), ref)
    assert per_token.values.tolist() == [0, 5]
    assert backend.numpy(per_token.index).tolist() == [[0, 1, 1]]


def test_a_table_is_made_again_only_for_other_host_values():
    memory, host, made = Memory(), np.arange(3.0), []
    for values in (host, host.copy(), host + 1, host + 1, host):
        memory.recall("a", values, lambda h: made.append(h.tolist()) or len(made))
    assert made == [[0, 1, 2], [1, 2, 3], [0, 1, 2]]
    assert memory.recall("b", host, lambda h: "other name") == "other name"


def test_moved_positions_are_noticed_between_calls(backend):
    transformer = tiny_transformer(backend, "2.3")
    pair = streams(backend, transformer)
    first = run(backend, transformer, pair)
    moved = dataclasses.replace(pair[0], positions=pair[0].positions + np.float32(0.5))
    changed = run(backend, transformer, (moved, pair[1]))
    assert np.abs(changed[0] - first[0]).max() > 1e-3
    for a, b in zip(run(backend, transformer, pair), first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_denoised_uses_the_timestep_of_each_token(backend):
    latent = backend.array(np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32), "bf16")
    velocity = backend.array(np.array([[[1.0, 1.0], [2.0, 2.0]]], np.float32))
    x0 = denoised(latent, velocity, np.array([[0.0, 0.5]], np.float32))
    assert x0.dtype == latent.dtype
    np.testing.assert_array_equal(backend.numpy(x0), [[[1, 2], [2, 3]]])


def test_perturbations_name_their_samples_and_blocks():
    perturbations = Perturbations(((), (("video_self", [1]), ("audio_self", None))))
    assert perturbations.keep("video_self", 0) is None
    assert perturbations.keep("video_self", 1).tolist() == [1, 0]
    assert perturbations.keep("audio_self", 7).tolist() == [1, 0]
    assert perturbations.keep("audio_to_video", 1) is None
    with pytest.raises(UserError, match=r"'vidio_self' is unknown.*did you mean 'video_self'"):
        Perturbations(((("vidio_self", None),),))


def test_metadata_of_another_model_is_refused_with_both_values():
    with pytest.raises(UserError, match="qk_norm=layer_norm is not supported, expected rms_norm"):
        TransformerConfig.from_metadata(metadata("2.3", qk_norm="layer_norm"))
    with pytest.raises(UserError, match="audio_num_attention_heads=16 differs from"):
        changes = {"audio_num_attention_heads": 16, "audio_attention_head_dim": 128}
        TransformerConfig.from_metadata(metadata("2.3", **changes))
    with pytest.raises(UserError, match="rope_type=spiral is unknown"):
        TransformerConfig.from_metadata(metadata("2.3", rope_type="spiral"))


@pytest.mark.parametrize(
    "key", ["num_attention_heads", "in_channels", "positional_embedding_max_pos", "norm_eps"]
)
def test_a_missing_key_is_named(key):
    section = metadata("2.0")
    del section[key]
    with pytest.raises(UserError, match=f"has no '{key}'"):
        TransformerConfig.from_metadata(section)


def test_keys_that_may_be_absent_take_the_defaults_of_the_format():
    section = metadata("2.0")
    absent = ("rope_type", "frequencies_precision", "av_ca_timestep_scale_multiplier", "num_layers")
    for key in absent:
        del section[key]
    config = TransformerConfig.from_metadata(section)
    assert config.split_rope
    assert not config.float64_rope
    assert (config.layers, config.gate_timestep_scale, config.audio.in_channels) == (48, 1, 128)
    assert not (config.gated or config.text_adaln or config.keyframes)
    assert config.caption_projection
    assert config.video.ff_bias
