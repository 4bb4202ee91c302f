"""A run's dealings with the store of results: what is taken from it, and what is put there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.ops import Array
from ltx2.pipelines.checks import Checks
from ltx2.pipelines.components.text import TextContext
from ltx2.pipelines.components.video import decoder_config
from ltx2.pipelines.decode_stage import PICTURE, SOUND
from ltx2.pipelines.identity import FileIdentity, device_identity, digest, weights_identity
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.latents import STREAMS, Latents
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.reuse import Reuse, decode_parts, plan_reuse
from ltx2.pipelines.store import Entry, Journal, NoStore, Store

LATENTS, TEXT, CONDITION = "latents", "text", "condition"
LATENT_PARTS = (*STREAMS, "slots")
# Frames are kept in steps of 1 / 65535, and a run whose frames are kept hands on the rounded ones:
# a clip from the cache and one decoded anew are the same. Those of HDR runs are logarithmic codes,
# whose range is [0, 1] as well; a step of theirs is less than half of one of half-float light.
STEPS = np.float32(65535)


@dataclass(frozen=True)
class Keeping:
    """Where a run keeps results. `weights` identifies weight files; frames of clips of at most
    `media_bytes` (16-bit) are kept, too. `texts` are contexts, and the enhanced prompt, by whether
    they are of the negative prompt, that were encoded before the run. `steps_wanted`: the latents
    of every step are looked at, so that sampling stages must run."""

    store: Store | None = None
    weights: FileIdentity = weights_identity
    media_bytes: float = 0
    texts: Mapping[bool, tuple[TextContext, str | None]] = field(default_factory=dict)
    steps_wanted: bool = False


class Keeper:
    """Store and keys of one run. Without a store nothing is found and nothing is kept."""

    def __init__(
        self, plan: Plan, backend: Any, dtypes: dict[str, str], given: Keeping, checks: Checks
    ) -> None:
        self._plan, self._backend, self._dtypes, self._checks = plan, backend, dtypes, checks
        self.store: Store = given.store or NoStore()
        self.keys: Keys | None = None
        if given.store is not None:
            self.keys = Keys(plan, device_identity(backend), dtypes, given.weights)
        self._media_bytes, self._texts = given.media_bytes, given.texts
        self._steps_wanted = given.steps_wanted or plan.settings.save_steps
        self.draws = draws_noise(plan)
        self.reuse = self._reuse()
        self.seams: tuple[list[int], list[int], list[int]] = ([], [], [])

    def _reuse(self) -> Reuse:
        if self.keys is not None:
            wanted = self._steps_wanted
            return plan_reuse(self._plan, self.keys, self.store, self.draws, wanted)
        stages = [s for s in self._plan.stages if s.settings.do != "decode"]
        parts = {p for s in self._plan.stages if s.settings.do == "decode" for p in decode_parts(s)}
        return Reuse(computed={s.name for s in stages} | parts)

    def key(self, name: str) -> str | None:
        """Key of a stage's latents, or of `sound` and `picture`; None without a store."""
        if self.keys is None:
            return None
        if name not in (SOUND, PICTURE):
            return self.keys.latents(name)
        stage = next(s for s in self._plan.stages if s.settings.do == "decode")
        return self.keys.sound(stage) if name == SOUND else self.keys.picture(stage, self.draws)

    def find(self, name: str) -> Entry | None:
        """The entry of a stage, if there is one."""
        key = self.key(name)
        return None if key is None else self.store.find(key)

    def claim(self, name: str) -> AbstractContextManager[Entry | None]:
        """Inside, no other worker computes `name`; gives what one of them has just finished."""
        key = self.key(name)
        return nullcontext(None) if key is None else self.store.claim(key)

    # --- text

    def text(self, negative: bool) -> tuple[TextContext, str | None] | None:
        """(contexts, enhanced prompt) of a prompt, if they are there."""
        if negative in self._texts:
            return self._texts[negative]
        entry = None if self.keys is None else self.store.find(self.keys.text(negative))
        if entry is None:
            return None
        about, dtype = entry.about, self._dtypes["connectors"]
        video, audio = (self._backend.array(np.array(entry.array(s)), dtype) for s in STREAMS)
        context = TextContext(video, audio, about["tokens"], about["truncated"])
        return context, about.get("enhanced")

    def put_text(self, negative: bool, context: TextContext, enhanced: str | None) -> None:
        """Keep the contexts of a prompt."""
        if self.keys is None or not self._checks.passed:
            return
        about = {"tokens": context.tokens, "truncated": context.truncated, "enhanced": enhanced}
        arrays = {s: self._host(getattr(context, s)) for s in STREAMS}
        self.store.put(self.keys.text(negative), TEXT, arrays, self._about("text") | about)

    # --- latents

    def latents(self, entry: Entry) -> Latents:
        """The latents of an entry on the device."""
        found = {part: entry.array(part) for part in LATENT_PARTS}
        arrays = {
            s: None if value is None else self._backend.array(np.array(value))
            for s, value in found.items()
        }
        return Latents(**arrays)

    def put_latents(
        self, stage: StagePlan, latents: Latents, draws: list[int], steps: list[dict[str, Any]]
    ) -> None:
        """Keep the latents of a finished stage, its step records and the draws up to its end."""
        key = self.key(stage.name)
        if key is None or stage.settings.do == "load" or not self._checks.passed:
            return
        values = {part: getattr(latents, part) for part in LATENT_PARTS}
        arrays = {s: self._host(value) for s, value in values.items() if value is not None}
        about = self._about(stage.name) | {"draws": draws, "steps": steps}
        self.store.put(key, LATENTS, arrays, about)

    def journal(self, stage: StagePlan) -> Journal | None:
        """The running stage's estimates, unless guidance remembers more than they tell."""
        key = self.key(stage.name)
        if key is None or stage.guidance is None or stage.guidance.remembers:
            return None
        return self.store.journal(key)

    # --- conditions

    def condition(self, pixels: np.ndarray) -> tuple[str | None, Array | None]:
        """(key, latent) of pixels (1, F, H, W, 3); the latent is None if it is not there."""
        if self.keys is None:
            return None, None
        content = np.ascontiguousarray(pixels)
        key = self.keys.condition(digest([content.shape, _bytes_hash(content)]))
        entry = self.store.find(key)
        if entry is None:
            return key, None
        return key, self._backend.array(np.array(entry.array("latent")))

    def put_condition(self, key: str | None, latent: Array) -> None:
        """Keep the latent of a condition."""
        if key is not None and self._checks.passed:
            about = self._about("condition")
            self.store.put(key, CONDITION, {"latent": self._host(latent)}, about)

    # --- decoded media

    def found_sound(self, entry: Entry | None) -> tuple[np.ndarray, int] | None:
        """(waveform, rate) of an entry."""
        if entry is None:
            return None
        waveform = entry.array("data")
        assert waveform is not None
        return np.array(waveform), int(entry.about["rate"])

    def put_sound(self, waveform: np.ndarray, rate: int) -> None:
        """Keep a decoded waveform (2, N)."""
        key = self.key(SOUND)
        if key is not None and self._checks.passed:
            self.store.put(key, SOUND, {"data": waveform}, self._about(SOUND) | {"rate": rate})

    @property
    def keeps_media(self) -> bool:
        """Whether decoded frames are small enough to be kept."""
        plan = self._plan
        size = plan.made_frames * plan.height * plan.width * 3 * 2
        return size <= self._media_bytes

    def found_frames(self, entry: Entry) -> Iterator[np.ndarray]:
        """Chunks (f, H, W, 3) float32 in [0, 1] of an entry."""
        frames = entry.array("data")
        assert frames is not None
        for start in range(0, len(frames), CHUNK_FRAMES):
            yield np.asarray(frames[start : start + CHUNK_FRAMES], np.float32) / STEPS

    def kept_frames(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """`chunks` as they come, kept on the way; rounded whether or not there is a store."""
        if not self.keeps_media:
            yield from chunks
            return
        with self._frame_stream() as stream:
            for chunk in chunks:
                levels = np.rint(np.clip(chunk, 0, 1) * STEPS).astype(np.uint16)
                if stream is not None:
                    stream.write(levels)
                    if not self._checks.passed:
                        stream.drop()
                yield levels.astype(np.float32) / STEPS

    @contextmanager
    def _frame_stream(self) -> Iterator[Any]:
        key, plan = self.key(PICTURE), self._plan
        if key is None or not self._checks.passed:
            yield None
            return
        shape = (plan.made_frames, plan.height, plan.width, 3)
        about = self._about(PICTURE) | {"seams": self.seams}
        with self.store.stream(key, PICTURE, shape, "uint16", about) as stream:
            yield stream

    def _host(self, value: Array) -> np.ndarray:
        return np.asarray(self._backend.numpy(value), np.float32)

    def _about(self, stage: str) -> dict[str, Any]:
        """What `cache ls` shows; no prompt, which may be private."""
        settings = self._plan.settings
        return {"stage": stage, "model": settings.model.name, "pipeline": settings.pipeline.name}


CHUNK_FRAMES = 16


def draws_noise(plan: Plan) -> bool:
    """Whether the video decoder adds noise, so that its result depends on the run's stream."""
    if not any(s.settings.video_from for s in plan.stages if s.settings.do == "decode"):
        return False
    config = decoder_config(plan.header_of("video_vae"))
    if isinstance(config, DiffusionDecoderConfig):
        return True
    return config.timestep_conditioning or any(block.inject_noise for block in config.blocks)


def _bytes_hash(content: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(content.data.cast("B")).hexdigest()
