"""Golden component of the latent upsamplers."""

from __future__ import annotations

import numpy as np

from ltx2.parity.registry import Case, component
from ltx2.parity.video_vae import channels_first, channels_last
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics
from ltx2.weights.header import read_header


@component("upsampler")
def run(case: Case) -> dict[str, np.ndarray]:
    """The network alone, and between un-normalisation and normalisation."""
    network, checkpoint = (read_header(path) for path in case.checkpoints)
    upsampler = load_upsampler(network, case.backend, case.dtype)
    statistics = load_statistics(checkpoint, case.backend, case.dtype)
    latent = channels_last(case.array("latent"))
    return {
        "raw": channels_first(case.numpy(upsampler(latent))),
        "normalised": channels_first(case.numpy(upsample(upsampler, statistics, latent))),
    }
