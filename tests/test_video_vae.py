"""The convolutional video VAE: metadata, structure, blocks, goldens."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

import ltx2.parity.video_vae  # noqa: F401  (registers the components)
from ltx2.errors import UserError
from ltx2.models.diffusion_decoder import DiffusionDecoder
from ltx2.models.latents import VideoScale
from ltx2.models.video_vae import (
    PerChannelStatistics,
    VideoDecoder,
    VideoEncoder,
    crop_frames,
)
from ltx2.models.video_vae_blocks import (
    PaddedConv3d,
    Padding,
    ResnetBlock,
    depth_to_space,
    space_to_depth,
)
from ltx2.models.video_vae_config import VideoDecoderConfig, VideoEncoderConfig, vae_scale
from ltx2.nn.module import parameter_count, params
from ltx2.parity.registry import RUNNERS, Case, tolerance
from ltx2.pipelines.components.video import (
    decoder_config,
    latent_channels,
    load_statistics,
    load_video_decoder,
    load_video_encoder,
    video_scale,
)
from ltx2.weights.header import read_header

DATA = Path(__file__).parent / "data"
CASES = Path(__file__).parent / "golden" / "cases"
NAMES = sorted(
    folder.name for folder in CASES.glob("video_vae__*") if "diffusion" not in folder.name
)
CONFIGS = {"2.0": "ltx-2-19b-config.json", "2.3": "ltx-2.3-22b-config.json"}


def metadata(generation: str, **changes) -> dict:
    return json.loads((DATA / CONFIGS[generation]).read_text())["vae"] | changes


def fill(module, backend, seed: int = 0):
    draw = np.random.default_rng(seed)
    for slot in params(module):
        shape = slot.value.shape
        array = draw.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        slot.replace(backend.place(backend.array(array), "fp32", slot.value.kind))
    return module


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_golden_case_is_reproduced(name, backend):
    case = Case(CASES / name, backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


@pytest.mark.parametrize(
    ("generation", "decoder", "encoder"),
    [("2.0", (90, 528_380_720), (92, 694_098_881)), ("2.3", (84, 407_169_072), (84, 318_936_897))],
)
def test_real_metadata_gives_the_published_parameter_counts(generation, decoder, encoder):
    vae = metadata(generation)
    statistics = 2, parameter_count(PerChannelStatistics.declare(128))
    assert statistics == (2, 256)
    modules = (
        VideoDecoder.declare(VideoDecoderConfig.from_metadata(vae)),
        VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae)),
    )
    for module, (tensors, count) in zip(modules, (decoder, encoder), strict=True):
        assert len(params(module)) - 2 == tensors
        assert parameter_count(module) - 256 == count


def test_timestep_conditioning_adds_the_42_tensors_of_the_first_generation():
    plain, conditioned = (
        VideoDecoder.declare(
            VideoDecoderConfig.from_metadata(metadata("2.0", timestep_conditioning=flag))
        )
        for flag in (False, True)
    )
    assert len(params(conditioned)) - len(params(plain)) == 42
    assert parameter_count(conditioned) - parameter_count(plain) == 24_433_921


def test_absent_padding_key_means_zeros_in_the_encoder_and_reflection_in_the_decoder():
    first, later = metadata("2.0"), metadata("2.3")
    assert VideoEncoderConfig.from_metadata(first).padding == "zeros"
    assert VideoDecoderConfig.from_metadata(first).padding == "reflect"
    assert VideoDecoderConfig.from_metadata(later).padding == "zeros"
    old_key = first | {"encoder_spatial_padding_mode": "replicate"}
    assert VideoEncoderConfig.from_metadata(old_key).padding == "edge"
    assert VideoDecoderConfig.from_metadata(old_key).padding == "reflect"


def test_scale_follows_from_the_block_list():
    assert vae_scale(metadata("2.0")) == vae_scale(metadata("2.3")) == VideoScale(8, 32)
    blocks = [["res_x", 1], ["compress_all_res", {}], ["compress_all_res", {}]]
    assert vae_scale(metadata("2.3", encoder_blocks=blocks)) == VideoScale(4, 16)


def test_bare_integer_means_the_number_of_layers():
    config = VideoEncoderConfig.from_metadata(metadata("2.3", encoder_blocks=[["res_x", 3]]))
    assert config.blocks[0].layers == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_blocks": None}, "lacks .* 'encoder_blocks'"),
        ({"encoder_blocks": [["compress_al_res", {}]]}, "did you mean 'compress_all_res'"),
        ({"encoder_blocks": [["res_x", {}]]}, "lacks 'num_layers'"),
        ({"spatial_padding_mode": "mirror"}, "spatial_padding_mode=mirror .* known: zeros"),
        ({"norm_layer": "group_norm"}, "norm_layer=group_norm"),
        ({"dims": 2}, "dims=2"),
    ],
)
def test_wrong_metadata_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        VideoEncoderConfig.from_metadata(metadata("2.3", **changes))


def test_metadata_decides_about_conditioning_and_the_embedder_only_where_it_is_silent(golden):
    header = read_header(golden / "checkpoints" / "video-vae-timestep-tiny.safetensors")

    def conditioned(flag: bool | None, tensors) -> bool:
        vae = dict(header.config["vae"])
        vae.pop("timestep_conditioning")
        vae |= {} if flag is None else {"timestep_conditioning": flag}
        metadata = {"config": json.dumps({"vae": vae})}
        changed = dataclasses.replace(header, tensors=tensors, metadata=metadata)
        return decoder_config(changed).timestep_conditioning

    without = {n: t for n, t in header.tensors.items() if "time_embedder" not in n}
    assert not conditioned(False, header.tensors)
    assert conditioned(None, header.tensors)
    assert not conditioned(None, without)


def test_unused_embedders_do_not_change_the_decoder(golden, backend):
    header = read_header(golden / "checkpoints" / "video-vae-timestep-tiny.safetensors")
    vae = header.config["vae"] | {"timestep_conditioning": False}
    metadata = {"config": json.dumps({"vae": vae})}
    decoder = load_video_decoder(dataclasses.replace(header, metadata=metadata), backend)
    assert decoder.last_time_embedder is None

    def refuse(shape):
        if len(shape) > 2:
            raise AssertionError("a decoder without conditioning draws no latent noise")
        return np.zeros(shape, np.float32)

    latent = backend.array(random(1, 2, 2, 2, 16))
    np.testing.assert_array_equal(
        backend.numpy(decoder(latent, noise=refuse)), backend.numpy(decoder(latent))
    )


def test_loaders_read_monoliths_and_split_files_alike(golden, backend):
    for name in ("ltx-2.3-tiny", "ltx-2.5-tiny/vae/ltx-2.5-tiny-video-vae"):
        header = read_header(golden / "checkpoints" / f"{name}.safetensors")
        assert video_scale(header) == VideoScale(8, 32)
        assert latent_channels(header) == 16
        encoder = load_video_encoder(header, backend)
        alone = load_statistics(header, backend)
        np.testing.assert_array_equal(
            backend.numpy(encoder.per_channel_statistics.std), backend.numpy(alone.std)
        )


def test_the_file_tells_which_decoder_it_holds(golden, backend):
    folder = golden / "checkpoints/ltx-2.5-tiny/vae"
    plain, diffusion = (
        load_video_decoder(
            read_header(folder / f"ltx-2.5-tiny-video-vae{kind}.safetensors"), backend
        )
        for kind in ("-conv", "")
    )
    assert isinstance(plain, VideoDecoder) and isinstance(diffusion, DiffusionDecoder)
    assert plain.scale == diffusion.scale == VideoScale(8, 32)


def test_file_without_a_video_vae_says_what_it_holds(golden, backend):
    header = read_header(golden / "checkpoints" / "spatial-upscaler-x2-tiny.safetensors")
    with pytest.raises(UserError, match="has no video VAE in its metadata"):
        load_video_encoder(header, backend)


def test_normalising_is_undone(backend):
    statistics = PerChannelStatistics(backend.array(random(4)), backend.array(random(4) ** 2 + 1))
    latent = random(1, 2, 3, 3, 4)
    x = backend.array(latent)
    there = backend.numpy(statistics.normalise(x))
    np.testing.assert_allclose(there, (latent - random(4)) / (random(4) ** 2 + 1), atol=1e-6)
    back = statistics.un_normalise(statistics.normalise(x))
    np.testing.assert_allclose(backend.numpy(back), latent, atol=1e-5)


def test_frames_beyond_8k_plus_1_are_dropped_with_a_warning(caplog):
    pixels = random(1, 12, 32, 32, 3)
    with caplog.at_level(logging.WARNING):
        cropped = crop_frames(pixels, VideoScale(8, 32))
    np.testing.assert_array_equal(cropped, pixels[:, :9])
    assert "the last 3 are not encoded" in caplog.text


def test_pixels_that_do_not_divide_name_the_two_nearest_sizes():
    with pytest.raises(UserError, match=r"width=40 .* use 32 or 64"):
        crop_frames(random(1, 1, 32, 40, 3), VideoScale(8, 32))


def test_reflecting_decoder_refuses_a_single_latent_row(golden, backend):
    header = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    with pytest.raises(UserError, match="use at least 64 pixels"):
        load_video_decoder(header, backend)(backend.array(random(1, 1, 1, 2, 16)))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_decoder_returns_the_dtype_of_the_latent(golden, backend, dtype):
    header = read_header(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    exact = load_video_decoder(header, backend)(backend.array(random(1, 1, 2, 2, 16)))
    latent = backend.array(random(1, 1, 2, 2, 16), dtype)
    video = load_video_decoder(header, backend, "bf16")(latent)
    assert video.dtype == latent.dtype
    error = backend.numpy(video) - backend.numpy(exact)
    assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(backend.numpy(exact))


@pytest.mark.parametrize("stride", [(2, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_depth_to_space_undoes_space_to_depth_but_for_the_first_frame(stride):
    x = random(1, 4, 4, 6, 3)
    drop = 1 if stride[0] == 2 else 0
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, stride), stride), x[:, drop:])


def test_pixel_norm_uses_1e_minus_8(backend):
    x = np.full((1, 1, 1, 1, 4), 1e-4, np.float32)
    normed = 1e-4 / np.sqrt(1e-8 + 1e-8)
    want = np.full_like(x, normed / (1 + np.exp(-normed)))
    convolution = fill(PaddedConv3d.declare(4, 3, Padding("zeros", causal=True)), backend)
    got, plain = convolution.norm_silu(backend.array(x)), convolution(backend.array(want))
    np.testing.assert_allclose(backend.numpy(got), backend.numpy(plain), rtol=1e-4)


@pytest.mark.parametrize(("causal", "index"), [(True, [0, 0, 0, 1, 2]), (False, [0, 0, 1, 2, 2])])
def test_time_is_padded_by_border_frames(backend, causal, index):
    convolution = fill(PaddedConv3d.declare(2, 3, Padding("zeros", causal)), backend)
    x = random(1, 3, 2, 2, 2)
    by_hand = convolution.conv
    got = backend.numpy(convolution(backend.array(x)))
    by_hand.pad = ((0, 0), (1, 1), (1, 1))
    want = backend.numpy(by_hand(backend.array(x[:, index])))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_strided_block_keeps_every_second_position_of_the_plain_convolution(backend):
    padding = Padding("zeros", causal=True)
    plain = fill(PaddedConv3d.declare(2, 2, padding), backend, seed=3)
    strided = fill(PaddedConv3d.declare(2, 2, padding, (2, 2, 2)), backend, seed=3)
    x = backend.array(random(1, 5, 4, 4, 2))
    want = backend.numpy(plain(x))[:, ::2, ::2, ::2]
    np.testing.assert_allclose(backend.numpy(strided(x)), want, atol=1e-5)


def test_widening_block_normalises_its_shortcut_over_everything(backend):
    block = fill(ResnetBlock.declare(4, 6, Padding("zeros", True), False, False), backend)
    silent = backend.numpy(block.conv2.conv.weight) * 0
    block.conv2.conv.weight = backend.array(silent)
    block.conv2.conv.bias = backend.array(np.zeros(6, np.float32))
    x = random(1, 2, 3, 3, 4)
    norm = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    norm = norm * backend.numpy(block.norm3.weight) + backend.numpy(block.norm3.bias)
    kernel = backend.numpy(block.conv_shortcut.weight).reshape(6, 4)
    want = norm @ kernel.T + backend.numpy(block.conv_shortcut.bias)
    np.testing.assert_allclose(backend.numpy(block(backend.array(x))), want, atol=1e-4)


def test_every_block_kind_loads_and_runs_both_ways(backend):
    blocks = [["res_x", 1], ["res_x_y", {}], ["compress_time", {}], ["compress_space", {}]]
    blocks += [["compress_all", {"multiplier": 2, "residual": True}]]
    down = [*blocks[:4], ["compress_all_res", {}], ["compress_time_res", {"multiplier": 1}]]
    vae = metadata("2.3", latent_channels=4, decoder_base_channels=4, encoder_blocks=down)
    encoder = fill(VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae)), backend)
    means = encoder(backend.array(random(1, 9, 32, 32, 3)))
    assert tuple(means.shape) == (1, 2, 2, 2, 4)
    config = VideoDecoderConfig.from_metadata(vae | {"decoder_blocks": blocks})
    decoder = fill(VideoDecoder.declare(config), backend)
    assert config.bottleneck == 16
    assert tuple(decoder(means).shape) == (1, 5, 32, 32, 3)
    assert np.isfinite(backend.numpy(means)).all()
