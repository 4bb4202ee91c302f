"""Video VAE and upsamplers whose weights and inputs follow from a formula, against samples."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from ltx2.models.tiling import TileAxis, Tiling, tiled_decode, tiled_encode
from ltx2.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx2.models.video_vae import VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import VideoDecoderConfig, VideoEncoderConfig
from ltx2.nn.module import Param, params
from ltx2.parity.video_vae import channels_first, channels_last

DATA = Path(__file__).parent / "data"
SAMPLES = 64


def wave(name: str, shape: tuple[int, ...], base: float = 0, scale: float = 1) -> np.ndarray:
    """base + scale * sin(0.731 j + 0.113 c + 0.0007 j^2 c / n), c from the CRC of the name."""
    n = int(np.prod(shape))
    j = np.arange(n, dtype=np.float64)
    c = zlib.crc32(name.encode()) % 1000
    values = base + scale * np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j * c / n)
    return values.astype(np.float32).reshape(shape)


def value(name: str, param: Param) -> np.ndarray:
    """The first matching rule."""
    if param.default is not None:
        return param.default()
    if name == "timestep_scale_multiplier":
        return np.float32(916).reshape(())
    rules = {"std-of-means": (1, 0.2), "mean-of-means": (0, 0.3), "table": (0, 0.3)}
    for part, rule in rules.items():
        if part in name:
            return wave(name, param.shape, *rule)
    if len(param.shape) < 2:
        *module, leaf = name.split(".")
        is_norm = leaf == "weight" and "norm" in module[-1]
        return wave(name, param.shape, *((1, 0.2) if is_norm else (0, 0.1)))
    return wave(name, param.shape, 0, 1.6 / np.sqrt(np.prod(param.shape[1:])))


def fill(module, backend):
    for slot in params(module):
        array = backend.array(value(slot.name, slot.value))
        slot.replace(backend.place(array, "fp32", slot.value.kind))
    return module


def check(key: str, got: np.ndarray, atol: float = 2e-4):
    want = json.loads((DATA / "video-formula.json").read_text())[key]
    assert list(got.shape) == want["shape"]
    index = [i * got.size // SAMPLES for i in range(SAMPLES)]
    np.testing.assert_allclose(got.reshape(-1)[index], want["values"], rtol=1e-4, atol=atol)
    np.testing.assert_allclose([got.mean(), got.std()], [want["mean"], want["std"]], atol=atol)


def small(generation: str, **changes) -> dict:
    """The real metadata with one layer per block and eight channels."""
    name = {"2.0": "ltx-2-19b-config.json", "2.3": "ltx-2.3-22b-config.json"}[generation]
    vae = json.loads((DATA / name).read_text())["vae"]
    vae |= {"latent_channels": 8, "decoder_base_channels": 8, **changes}
    for kind, options in [*vae["encoder_blocks"], *vae["decoder_blocks"]]:
        if kind == "res_x":
            options["num_layers"] = 1
    return vae


def decoder(backend, vae: dict) -> VideoDecoder:
    return fill(VideoDecoder.declare(VideoDecoderConfig.from_metadata(vae)), backend)


def latent(backend, name: str = "in.latent"):
    return channels_last(backend.array(wave(name, (1, 8, 3, 3, 4))))


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_encoder_gives_the_recorded_means(backend, generation):
    config = VideoEncoderConfig.from_metadata(small(generation))
    encoder = fill(VideoEncoder.declare(config), backend)
    pixels = channels_last(backend.array(wave("in.pixels", (1, 3, 9, 64, 96))))
    check(f"video/{generation}/encode", channels_first(backend.numpy(encoder(pixels))))


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_decoder_gives_the_recorded_pixels_without_an_offset(backend, generation):
    video = decoder(backend, small(generation))(latent(backend))
    check(f"video/{generation}/decode", channels_first(backend.numpy(video)))


def test_conditioned_decoder_gives_the_recorded_pixels(backend):
    conditioned = decoder(backend, small("2.0", timestep_conditioning=True))
    video = conditioned(latent(backend), noise=lambda shape: wave("in.decode_noise", shape))
    check("video/2.0_t/decode", channels_first(backend.numpy(video)))


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_tiled_decoder_gives_the_recorded_pixels(backend, generation):
    tiling = Tiling(TileAxis(16, 8), TileAxis(64, 32), TileAxis(96, 32))
    chunks = tiled_decode(decoder(backend, small(generation)), latent(backend), tiling)
    video = np.concatenate([backend.numpy(chunk) for chunk in chunks], axis=1)
    check(f"video/{generation}/decode_tiled", channels_first(video))


def test_tiled_encoder_gives_the_recorded_means(backend):
    encoder = fill(VideoEncoder.declare(VideoEncoderConfig.from_metadata(small("2.3"))), backend)
    pixels = channels_last(wave("in.pixels_tiled", (1, 3, 33, 128, 128)))
    tiling = Tiling(TileAxis(24, 16), TileAxis(96, 64), TileAxis(96, 64))
    means = backend.numpy(tiled_encode(encoder, pixels, tiling))
    check("video/2.3/encode_tiled", channels_first(means))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("x2_plain", {}),
        ("x2_rational", {"rational_resampler": True}),
        ("x1.5_rational", {"rational_resampler": True, "spatial_scale": 1.5}),
        ("temporal", {"spatial_upsample": False, "temporal_upsample": True}),
    ],
)
def test_upsampler_gives_the_recorded_latent(backend, key, options):
    sizes = {"in_channels": 8, "mid_channels": 64, "num_blocks_per_stage": 1}
    config = UpsamplerConfig.from_metadata({**sizes, **options})
    upsampler = fill(LatentUpsampler.declare(config), backend)
    finer = backend.numpy(upsampler(latent(backend, "in.latent_u")))
    assert finer.shape[1:4] == config.grid((3, 3, 4))
    check(f"upsampler/{key}", channels_first(finer))
