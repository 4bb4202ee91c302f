"""The key of every stage's result: a digest of exactly what the result depends on.

A key holds the part of the settings that the stage reads, the keys of the stages it starts from,
the content of input files, and the identity of weights, device and numerics. Nothing is computed
or loaded to know it, so keys also tell before a run what of it is there already.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

from ltx2.pipelines.clips import sound_path
from ltx2.pipelines.conditions import stage_conditions
from ltx2.pipelines.decode_stage import INPUT
from ltx2.pipelines.decoding import border_of
from ltx2.pipelines.extension import overlap_frames
from ltx2.pipelines.files import MODEL_ROLES
from ltx2.pipelines.hdr import is_hdr
from ltx2.pipelines.identity import (
    FileIdentity,
    content_hash,
    digest,
    numerics_version,
    weights_identity,
)
from ltx2.pipelines.loras import detail_factor, reference_scales, stage_loras
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.quantisation import block_quantisation, text_quantisation
from ltx2.pipelines.windows import windows

# What of a stage's settings decides its result directly; the rest enters as keys of other stages,
# as sigmas, guidance and LoRAs, or is a name.
STAGE_FIELDS = ("do", "streams", "freeze", "keyframes", "region", "windows", "extend")


class Keys:
    """Keys of one plan on one device; `device` as of `device_identity`, `dtypes` by component.

    `weights` identifies a weight file; `content_hash` is the careful and slow choice.
    """

    def __init__(
        self,
        plan: Plan,
        device: dict[str, Any],
        dtypes: dict[str, str],
        weights: FileIdentity = weights_identity,
    ) -> None:
        self._plan, self._dtypes, self._weights = plan, dtypes, weights
        self._common = {"numerics": numerics_version(), "device": device}
        self._known: dict[str, str] = {}

    def text(self, negative: bool) -> str:
        """Key of the contexts of the positive or the negative prompt."""
        settings, files = self._plan.settings, self._plan.files
        read: dict[str, Any] = {
            "prompt": settings.negative_prompt if negative else settings.prompt,
            "text_encoder": self._weights(files["text_encoder"]),
            "dtypes": [self._dtypes[name] for name in ("text_encoder", "connectors")],
            "quantisation": text_quantisation(settings),
        }
        if settings.enhance.enabled and not negative:
            read["enhance"] = asdict(settings.enhance)
            if settings.enhance.seed is None:
                read["seed"] = settings.seed
            if settings.enhance.system_prompt:
                read["enhance"]["system_prompt"] = content_hash(settings.enhance.system_prompt)
        return self._digest("text", read)

    def latents(self, name: str) -> str:
        """Key of the latents of stage `name`."""
        if name not in self._known:
            stage = self._plan.stage(name)
            read = {
                "encode": self._encode,
                "load": self._load,
                "sample": self._sample,
                "upscale": self._upscale,
            }[stage.settings.do]
            self._known[name] = self._digest(stage.settings.do, read(stage))
        return self._known[name]

    def sound(self, stage: StagePlan) -> str | None:
        """Key of the waveform that decode stage `stage` makes; None if it makes none."""
        source = stage.settings.audio_from
        if source in (None, INPUT):
            return None
        read = {"latents": self.latents(str(source)), "dtype": self._dtypes["audio_vae"]}
        return self._digest("sound", read)

    def picture(self, stage: StagePlan, draws_noise: bool) -> str | None:
        """Key of the frames that decode stage `stage` makes; None if it makes none."""
        source = stage.settings.video_from
        if source in (None, INPUT):
            return None
        plan = self._plan
        read: dict[str, Any] = {
            "latents": self.latents(str(source)),
            "dtype": self._dtypes["video_vae"],
            "tiling": [plan.settings.tiling.mode, plan.tiling],
            "border": border_of(plan.settings.decoder),
        }
        if plan.canvas is not None:
            read["frames"] = plan.made_frames
        if draws_noise:
            read["noise"] = self._noise_before(stage)
        return self._digest("picture", read)

    def condition(self, pixels_hash: str) -> str:
        """Key of the latent that the video encoder makes of pixels with this digest."""
        read = {"pixels": pixels_hash, "dtype": self._dtypes["video_vae"]}
        return self._digest("condition", read)

    # --- what the stages read

    def _encode(self, stage: StagePlan) -> dict[str, Any]:
        plan, given = self._plan, self._plan.settings.input
        read = self._shape(stage) | {"audio_start": given.audio_start, "fps": plan.fps}
        if "video" in stage.settings.streams:
            read["video"] = content_hash(given.video)
            if given.colour_space or is_hdr(plan.settings):
                read["light"] = [given.colour_space, is_hdr(plan.settings)]
            read["video dtype"] = self._dtypes["video_vae"]
        if "audio" in stage.settings.streams and (sound := sound_path(plan.settings)):
            read["audio"] = content_hash(sound)
            read["audio dtype"] = self._dtypes["audio_vae"]
        if stage.settings.extend:
            read["extend"] = [given.side, overlap_frames(plan)]
        return read

    def _load(self, stage: StagePlan) -> dict[str, Any]:
        return {"latents": content_hash(self._plan.settings.input.latents)}

    def _upscale(self, stage: StagePlan) -> dict[str, Any]:
        return {
            "start": self.latents(str(stage.settings.start)),
            "upscaler": self._weights(self._plan.files[stage.settings.upscaler]),
            "dtype": self._dtypes["upsampler"],
            "keyframes": stage.settings.keyframe_slots,
        }

    def _sample(self, stage: StagePlan) -> dict[str, Any]:
        plan, own = self._plan, stage.settings
        assert stage.guidance is not None
        guidance = asdict(stage.guidance)
        # How many passes share a call changes no result, only the memory and time it takes.
        guidance.pop("max_batch")
        read = self._shape(stage) | {
            "fps": plan.fps,
            "sigmas": stage.sigmas,
            "guidance": guidance,
            "sampler": self._sampler(stage),
            "noise": self._noise_before(stage),
            "text": [self.text(False), self.text(True) if stage.guidance.needs_negative else None],
            "start": None if own.start is None else self.latents(own.start),
            "conditions": [self._condition(c) for c in stage_conditions(plan, stage)],
            "loras": self._loras(stage),
            "tiles": None if stage.tiles is None else stage.tiles.axes,
            "dtype": self._dtypes["transformer"],
            "quantisation": block_quantisation(plan.settings),
            "model streams": plan.streams,
        }
        return read | self._special(stage)

    def _special(self, stage: StagePlan) -> dict[str, Any]:
        """What only some stages read."""
        plan, own, given = self._plan, stage.settings, self._plan.settings.input
        read: dict[str, Any] = {}
        shown = {condition.kind for condition in stage_conditions(plan, stage)}
        shown |= {"source"} & set(own.conditions)
        if shown:
            read["conditions dtype"] = self._dtypes["video_vae"]
            read["hdr"] = is_hdr(plan.settings)
        if shown & {"reference", "source"}:
            read["reference scales"] = reference_scales(plan.settings, plan.files)
        if "source" in shown:
            read["source"] = content_hash(given.video)
        if "mask" in own.conditions and given.mask:
            read["mask"] = content_hash(given.mask)
        if own.keyframe_slots and plan.keyframe_slots:
            read["keyframe slots"] = plan.keyframe_slots
        if own.round:
            read["round"] = [own.round, plan.canvas and plan.canvas.segment]
        if own.detail_from is not None:
            factor = detail_factor(plan.settings, plan.files)
            read["detail"] = [self.latents(own.detail_from), factor]
        if own.region:
            read["region"] = [given.start, given.end, sorted(given.regenerate)]
        if own.freeze or own.region:
            read["frozen noise"] = given.frozen_noise
        if own.extend:
            read["extend"] = [given.side, overlap_frames(plan)]
        if own.audio_reference is not None:
            read["audio reference"] = self.latents(own.audio_reference)
        if own.windows:
            read["windows"] = windows(plan)
        return read

    def _sampler(self, stage: StagePlan) -> list[Any]:
        """Kind and options; options given for another kind do not reach the stage."""
        given, own = self._plan.settings.sampler, stage.settings.sampler
        return [given.kind, asdict(given)] if own in ("main", given.kind) else [own, None]

    def _condition(self, given: Any) -> dict[str, Any]:
        read = asdict(given) | {"path": content_hash(given.path)}
        read["frame"] = given.frame % self._plan.asked_frames
        if given.mask:
            read["mask"] = content_hash(given.mask)
        return read

    def _loras(self, stage: StagePlan) -> list[Any]:
        plan = self._plan
        loras = stage_loras(plan.settings, plan.files, stage.settings)
        return [
            [self._weights(lora.path), lora.strength, lora.fused, lora.schedule] for lora in loras
        ]

    def _noise_before(self, stage: StagePlan) -> list[Any]:
        """The run's stream of noise and what was drawn from it before `stage`.

        What a stage draws follows from its key, so the keys of earlier stages tell the position.
        """
        settings, before = self._plan.settings, []
        for earlier in self._plan.stages:
            if earlier.name == stage.name:
                break
            if earlier.settings.do in ("sample", "load"):
                before.append(self.latents(earlier.name))
        return [settings.noise, settings.seed, before]

    def _shape(self, stage: StagePlan) -> dict[str, Any]:
        own = {name: getattr(stage.settings, name) for name in STAGE_FIELDS}
        size = [stage.height, stage.width, self._plan.frames]
        return own | {"size": size, "sound": self._plan.audio_length}

    def _digest(self, do: str, read: dict[str, Any]) -> str:
        return digest([do, self._common, self._checkpoint, read])

    @cached_property
    def _checkpoint(self) -> str:
        parts = [self._plan.files[role] for role in MODEL_ROLES if role in self._plan.files]
        return digest([self._weights(part) for part in parts])
