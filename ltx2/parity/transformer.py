"""Golden components of the diffusion transformer."""

from __future__ import annotations

import numpy as np

from ltx2.models.transformer import Perturbations, Stream, Transformer, denoised
from ltx2.models.transformer_config import STREAMS
from ltx2.nn.attention import Switch
from ltx2.parity.registry import Case, component
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.weights.header import read_header


@component("transformer.forward")
def forward(case: Case) -> dict[str, np.ndarray]:
    """Velocities, x0 estimates and the hidden states after each block."""
    streams = case.settings.get("modalities") or STREAMS
    header = read_header(case.checkpoints[0])
    return run_forward(case, load_transformer(header, case.backend, case.dtype, streams))


def run_forward(case: Case, transformer: Transformer) -> dict[str, np.ndarray]:
    """The outputs of one forward pass of `transformer` on the inputs of `case`."""
    names = [name for name in STREAMS if f"{name}_latent" in case.inputs]
    streams = {name: _stream(case, name, transformer) for name in names}
    listed = case.settings.get("perturbations")
    perturbations = None if listed is None else Perturbations(listed)
    out = {}

    def trace(name: str, index: int, *states: object) -> None:
        for stream, state in zip(STREAMS, states, strict=True):
            if state is not None:
                out[f"{name}.{index}.{stream}"] = case.numpy(state)

    pair = streams.get("video"), streams.get("audio")
    velocities = dict(zip(STREAMS, transformer(*pair, perturbations, trace), strict=True))
    for name, stream in streams.items():
        x0 = denoised(stream.latent, velocities[name], stream.timesteps)
        out[f"{name}_velocity"] = case.numpy(velocities[name])
        out[f"{name}_denoised"] = case.numpy(x0)
    return out


def _stream(case: Case, name: str, transformer: Transformer) -> Stream:
    raw = case.array(f"{name}_context")
    pair = (raw, None) if name == "video" else (None, raw)
    context = transformer.project_context(*pair)[STREAMS.index(name)]
    keyframes = case.inputs.get(f"{name}_keyframes_mask")
    timesteps = case.inputs[f"{name}_timesteps"]
    return Stream(
        latent=case.array(f"{name}_latent"),
        timesteps=timesteps.reshape(timesteps.shape[:2]),
        sigma=case.inputs[f"{name}_sigma"],
        positions=case.inputs[f"{name}_positions"],
        context=context,
        context_mask=case.inputs.get(f"{name}_context_mask"),
        attention_mask=case.inputs.get(f"{name}_attention_mask"),
        keyframes_mask=None if keyframes is None else keyframes.reshape(keyframes.shape[:2]),
        enabled=name not in case.settings.get("disabled", ()),
    )


@component("transformer.submodules")
def submodules(case: Case) -> dict[str, np.ndarray]:
    """Modulation, gates, feed-forward and attention of the first block, each alone."""
    header = read_header(case.checkpoints[0])
    transformer = load_transformer(header, case.backend, case.dtype)
    timesteps, x = case.inputs["timesteps_scaled"], case.array("x")
    layers = transformer.transformer_blocks[0].layers("video")
    video, audio = transformer.side("video"), transformer.side("audio")
    assert video.gate and audio.cross
    rows, embedded = video.adaln_single(timesteps)
    cross, _ = audio.cross(timesteps)
    gate, _ = video.gate(timesteps)
    outputs = {
        "modulation": rows.reshape(len(timesteps), -1),
        "embedded_timestep": embedded[:, 0],
        "cross_scale_shift_audio": cross.reshape(len(timesteps), -1),
        "gate_a2v": gate[:, 0],
        "feed_forward": layers.ff(x),
        "attention_unrotated": layers.attn1(x),
        "attention_bypassed": layers.attn1(x, keep=Switch.of(np.zeros(x.shape[0]), x)),
    }
    return {name: case.numpy(value) for name, value in outputs.items()}
