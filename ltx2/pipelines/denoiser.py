"""Guided estimates of the clean latents: the transformer calls of one sampling step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ltx2 import ops
from ltx2.diffusion.guidance import Passes, passes
from ltx2.diffusion.loop import Denoised
from ltx2.diffusion.state import LatentState, timesteps
from ltx2.models.transformer import Perturbations, Stream, Transformer, denoised
from ltx2.ops import Array
from ltx2.pipelines.guidance import STREAMS, GuidancePair, Guider

Observer = Callable[[str, str, Array], None]  # stream, pass name, x0


@dataclass(frozen=True)
class Contexts:
    """Projected text contexts (1, S, D) of one prompt; None for a stream that is not built."""

    video: Array | None
    audio: Array | None


@dataclass
class Denoiser:
    """Calls the transformer for every guidance pass of a step and combines the estimates.

    `contexts` gives those of the positive and, where guidance needs it, the negative prompt at a
    sigma. Passes are stacked on the batch axis as `guidance` says; the result does not depend on
    the split. `on_call` hears the number of passes of each transformer call. What is remembered
    from step to step belongs to the object: `dataclasses.replace` gives one that remembers nothing.
    """

    transformer: Transformer
    contexts: Callable[[float], Sequence[Contexts]]
    guidance: GuidancePair
    observe: Observer | None = None
    on_call: Callable[[int], None] | None = None
    _guiders: dict[str, Guider] = field(init=False, repr=False)
    _last: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._guiders = self.guidance.guiders()

    def __call__(
        self, video: LatentState | None, audio: LatentState | None, sigma: float, step: int
    ) -> Denoised:
        """x0 estimates (B, T, C) of both streams at `sigma`, before blending with clean tokens."""
        states = {"video": video, "audio": audio}
        scales = {s: getattr(self.guidance, s).at(sigma) for s in STREAMS}
        present = {s: scales[s] if states[s] is not None else None for s in STREAMS}
        plan = passes(present["video"], present["audio"], step)
        estimates = self._estimates(states, plan, sigma)
        results: dict[str, Array | None] = {"video": None, "audio": None}
        for stream, parts in estimates.items():
            if self.observe is not None:
                for name, value in parts.items():
                    self.observe(stream, name, value)
            order = (parts.get(name) for name in ("cond", "uncond", "ptb", "mod"))
            self._last[stream] = self._guiders[stream](scales[stream], *order)
        for stream, state in states.items():
            # A skipped stream reuses its last guided estimate.
            results[stream] = None if state is None else self._last[stream]
        return Denoised(
            video=results["video"],
            audio=results["audio"],
            uncond_video=estimates.get("video", {}).get("uncond"),
            uncond_audio=estimates.get("audio", {}).get("uncond"),
        )

    def _estimates(
        self, states: dict[str, LatentState | None], plan: Passes, sigma: float
    ) -> dict[str, dict[str, Array]]:
        """x0 by stream and pass name, of the streams that this step computes."""
        computed = [s for s in STREAMS if getattr(plan, s)]
        estimates: dict[str, dict[str, Array]] = {stream: {} for stream in computed}
        tokens = sum(s.latent.shape[1] for s in states.values() if s is not None)
        limit = self.guidance.stacked(len(plan.names), tokens)
        contexts = self.contexts(sigma) if plan.names else ()
        for start in range(0, len(plan.names), limit):
            part = Passes(
                plan.names[start : start + limit],
                plan.perturbations[start : start + limit],
                plan.video,
                plan.audio,
            )
            for stream, values in self._call(states, part, contexts, sigma).items():
                estimates[stream].update(zip(part.names, values, strict=True))
            if self.on_call is not None:
                self.on_call(len(part.names))
        return estimates

    def _call(
        self,
        states: dict[str, LatentState | None],
        plan: Passes,
        contexts: Sequence[Contexts],
        sigma: float,
    ) -> dict[str, list[Array]]:
        """One transformer call for some passes; one x0 (B, T, C) per pass and computed stream."""
        streams = {
            key: None if state is None else self._stream(key, state, plan, contexts, sigma)
            for key, state in states.items()
        }
        batch = next(s.latent.shape[0] for s in states.values() if s is not None)
        samples = tuple(p for p in plan.perturbations for _ in range(batch))
        perturbations = Perturbations(samples) if any(samples) else None
        outputs = self.transformer(streams["video"], streams["audio"], perturbations)
        results: dict[str, list[Array]] = {}
        for (key, state), velocity in zip(states.items(), outputs, strict=True):
            stream = streams[key]
            if state is None or stream is None or velocity is None or not getattr(plan, key):
                continue
            x0 = denoised(_repeat(state.latent, len(plan.names)), velocity, stream.timesteps)
            parts = range(len(plan.names))
            results[key] = [x0[i * batch : (i + 1) * batch] for i in parts]
        return results

    def _stream(
        self,
        key: str,
        state: LatentState,
        plan: Passes,
        prompts: Sequence[Contexts],
        sigma: float,
    ) -> Stream:
        count, batch = len(plan.names), state.latent.shape[0]
        # A held stream without guidance of its own has no negative prompt: it stays as it is.
        unguided = state.frozen and getattr(self.guidance, key).at(sigma).cfg == 1
        names = ["cond" if unguided else name for name in plan.names]
        contexts = [_context(prompts, key, name, batch) for name in names]
        masks = state.attention_mask, state.keyframes_mask
        return Stream(
            # The state is float32; the model computes in the dtype of its weights.
            latent=ops.like(_repeat(state.latent, count), contexts[0]),
            timesteps=_tile(timesteps(state, sigma), count),
            sigma=_tile(state.sigmas(sigma), count),
            positions=_tile(state.positions, count),
            context=contexts[0] if count == 1 else ops.concat(contexts, axis=0),
            attention_mask=None if masks[0] is None else _tile(masks[0], count),
            keyframes_mask=None if masks[1] is None else _tile(masks[1][..., 0], count),
            enabled=bool(getattr(plan, key)),
        )


def _context(prompts: Sequence[Contexts], key: str, name: str, batch: int) -> Array:
    negative = name == "uncond"
    assert len(prompts) > negative, "an unconditional pass needs the negative prompt"
    context = getattr(prompts[int(negative)], key)
    assert context is not None, f"no context for the {key} stream"
    return ops.broadcast_to(context, (batch, *context.shape[1:]))


def _repeat(x: Array, count: int) -> Array:
    return x if count == 1 else ops.concat([x] * count, axis=0)


def _tile(host: np.ndarray, count: int) -> np.ndarray:
    return np.tile(host, (count, *([1] * (host.ndim - 1))))
