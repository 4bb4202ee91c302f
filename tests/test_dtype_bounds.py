"""bfloat16 against float32 on the built-in model: every component stays within a measured bound.

A bound is about twice the larger of what both backends showed: the root of the mean-square error
relative to the output.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ltx2.app.compose import compose
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream
from ltx2.pipelines.components.audio import load_audio_decoder
from ltx2.pipelines.components.text import encode_prompts
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics, load_video_decoder
from ltx2.pipelines.planning import make_plan

PROMPT = "a red circle moves right on a white background with a high tone"
GRID, SOUND = (3, 4, 4), 18


@pytest.fixture(scope="module")
def plan():
    return make_plan(compose())


def normal(backend, dtype, *shape):
    draw = np.random.default_rng(math.prod(shape))
    return backend.array(draw.normal(size=shape).astype(np.float32), dtype)


def text(plan, backend, dtype):
    files, header = plan.files["text_encoder"], plan.headers["checkpoint"]
    dtypes = {"text_encoder": dtype, "connectors": dtype}
    context = encode_prompts([PROMPT], files, header, backend, dtypes)[0]
    return [context.video, context.audio]


def transformer(plan, backend, dtype):
    model = load_transformer(plan.headers["checkpoint"], backend, dtype)
    # Contexts as the encoder makes them, so that only the step itself differs.
    contexts = model.project_context(*text(plan, backend, "fp32"))
    video, audio = model.config.video.in_channels, model.config.audio.in_channels
    sigma, tokens = np.full((1,), 0.7, np.float32), math.prod(GRID)
    places = video_positions(GRID, 24.0, VideoScale()), audio_positions(SOUND)
    streams = [
        Stream(normal(backend, dtype, 1, n, width), np.full((1, n), 0.7, np.float32), sigma, at, c)
        for n, width, at, c in zip((tokens, SOUND), (video, audio), places, contexts, strict=True)
    ]
    return model(*streams)


def video(plan, backend, dtype):
    decoder = load_video_decoder(plan.header_of("video_vae"), backend, dtype)
    return [decoder(normal(backend, dtype, 1, *GRID, decoder.config.latent_channels))]


def audio(plan, backend, dtype):
    decoder = load_audio_decoder(plan.header_of("audio_vae"), backend, dtype)
    geometry = plan.audio
    shape = (1, SOUND, geometry.latent_bins, geometry.latent_channels)
    return [decoder(normal(backend, dtype, *shape))]


def upsampler(plan, backend, dtype):
    network = load_upsampler(plan.headers["spatial_upscaler"], backend, dtype)
    statistics = load_statistics(plan.header_of("video_vae"), backend, "fp32")
    latent = normal(backend, "fp32", 1, *GRID, network.config.in_channels)
    return [upsample(network, statistics, latent)]


BOUNDS = {text: 0.008, transformer: 0.016, video: 0.015, audio: 0.005, upsampler: 0.016}


def differences(plan, backend, component):
    with backend.inference():
        half, full = (component(plan, backend, dtype) for dtype in ("bf16", "fp32"))
    pairs = [(backend.numpy(a), backend.numpy(b)) for a, b in zip(half, full, strict=True)]
    return [float(np.sqrt(np.square(a - b).mean() / np.square(b).mean())) for a, b in pairs]


@pytest.mark.parametrize("component", BOUNDS, ids=lambda component: component.__name__)
def test_bf16_stays_near_fp32(plan, backend, component):
    found = differences(plan, backend, component)
    assert 1e-6 < max(found) < BOUNDS[component], found  # equal results would mean equal dtypes
