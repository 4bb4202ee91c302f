"""From settings to objectives, one function for each option of conf/training/objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx2.errors import UserError
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.nn.module import copied, slots
from ltx2.pocket.world import Take, held_out_scene, training_scene
from ltx2.training.adapters import AdaptObjective, add_adapters
from ltx2.training.audio import AudioVaeObjective, Sounds, VocoderObjective, centre
from ltx2.training.base import base_of
from ltx2.training.clip_folder import folder_latents
from ltx2.training.distil import DistilObjective
from ltx2.training.encoding import encode_sets, latent_set
from ltx2.training.flow import FlowObjective, FlowOptions
from ltx2.training.latents import LatentSet
from ltx2.training.parameters import Leaves
from ltx2.training.pocket_data import ClipShape, RenderedClips, held_out_clips
from ltx2.training.settings import (
    AdaptSettings,
    AudioVaeSettings,
    BucketEntry,
    DistilSettings,
    FlowSettings,
    FolderData,
    PocketData,
    UpsamplerSettings,
    VideoVaeSettings,
    VocoderSettings,
)
from ltx2.training.trainer import Objective
from ltx2.training.upsampler import UpsamplerObjective
from ltx2.training.video_vae import VideoVaeObjective
from ltx2.training.workshop import Workshop

# Lengths of what is heard, as width by height of the picture it belongs to.
ASPECTS = (1.0, 1.5, 1.5, 0.667)
SOUND_SEED, HELD_OUT_SEED = 1, 2
Make = Callable[[Any, Workshop], Objective]


def video_vae(own: VideoVaeSettings, workshop: Workshop) -> VideoVaeObjective:
    """Encoder and decoder on clips rendered on the way."""
    data = pocket_data(workshop)
    modules = workshop.fresh("video")
    workshop.set_statistics(modules["decoder"], own.statistics_seed)
    shapes = [ClipShape(**vars(entry)) for entry in data.clips.values() if entry.share > 0]
    if not shapes:
        raise UserError("no entry of data.clips has a share above 0; there is nothing to train on")
    held_out = tuple(
        held_out_clips(entry.batch, entry.frames, entry.height, entry.width, index)
        for index, entry in enumerate(data.evaluate.values())
    )
    return VideoVaeObjective(
        **modules,
        clips=RenderedClips(shapes, own.emphasis, own.plain_until),
        held_out=held_out,
        edges_from=own.edges_from,
        settle_from=round(own.settle * workshop.settings.train.steps),
        noise=own.noise,
        frozen_encoder=own.frozen_encoder,
    )


def audio_vae(own: AudioVaeSettings, workshop: Workshop) -> AudioVaeObjective:
    """Encoder and decoder on spectrograms of rendered sounds."""
    sounds, held_out = rendered_sounds(workshop)
    return AudioVaeObjective(
        **workshop.fresh("audio"),
        sounds=sounds,
        held_out=held_out,
        batch=own.batch,
        length=own.length,
        noise=own.noise,
    )


def vocoder(own: VocoderSettings, workshop: Workshop) -> VocoderObjective:
    """On true spectrograms, and maybe on those of the finished audio autoencoder."""
    vae = None
    if own.from_vae:
        audio = workshop.finished("audio")
        freeze(audio, workshop)
        vae = audio["encoder"], audio["decoder"]
    sounds, held_out = rendered_sounds(workshop)
    module = workshop.fresh("vocoder")["vocoder"]
    centre(module.conv_pre, float(sounds.mels.mean()))
    return VocoderObjective(
        module,
        sounds,
        held_out,
        vae,
        batch=own.batch,
        length=own.length,
        spectra=own.spectra,
        spectra_from=own.spectra_from,
    )


def upsampler(own: UpsamplerSettings, workshop: Workshop) -> UpsamplerObjective:
    """On clips that were encoded at two sizes."""
    data = pocket_data(workshop)
    encode_sets(workshop, [*own.sets])
    statistics = workshop.finished("video")["decoder"].per_channel_statistics
    small: list[np.ndarray] = []
    large: list[np.ndarray] = []
    for name in own.sets:
        sizes = data.sets[name].sizes
        if len(sizes) < 2:
            raise UserError(f"data.sets.{name} has one size; the upsampler needs two, small first")
        for size, collected in zip(sizes, (small, large), strict=False):
            collected.append(set_latents(workshop, name, size))
    return UpsamplerObjective(
        workshop.fresh("upsampler")["upsampler"],
        statistics,
        np.concatenate(small),
        np.concatenate(large),
        batch=own.batch,
        noise=own.noise,
    )


def flow(own: FlowSettings, workshop: Workshop) -> FlowObjective:
    """Transformer and text path from scratch on encoded clips."""
    return flow_of(own, workshop, workshop.fresh("flow"))


def flow_of(own: FlowSettings, workshop: Workshop, modules: dict[str, Any]) -> FlowObjective:
    """The objective for given modules of the flow part."""
    values = {name: getattr(own, name) for name in FlowOptions.__dataclass_fields__}
    values["tasks"] = dict(vars(own.tasks))
    if not sum(values["tasks"].values()) > 0:
        raise UserError("no entry of objective.tasks is above 0; give at least one a share")
    return FlowObjective(
        modules["transformer"],
        workshop.text_path(modules, own.trains_text),
        *pocket_latents(workshop),
        workshop.scale,
        workshop.timing,
        pocket_data(workshop).fps,
        FlowOptions(**values),
    )


def distil(own: DistilSettings, workshop: Workshop) -> DistilObjective:
    """A copy of the finished transformer that learns to do without guidance."""
    modules = workshop.finished("flow")
    teacher = FlowSettings(audio=own.audio, trains_text=False)
    student = copied(modules["transformer"])
    for slot in slots(student):
        if isinstance(slot.value, torch.Tensor):
            slot.replace(slot.value.clone())
    freeze(modules, workshop)
    made = flow_of(teacher, workshop, modules)
    return DistilObjective(made, student, (), own.sigmas, own.late, own.cfg, own.real)


def adapt(own: AdaptSettings, workshop: Workshop) -> AdaptObjective:
    """A LoRA, or the whole transformer, of a finished model on rendered or given clips."""
    if own.rank < 0:
        raise UserError(f"objective.rank={own.rank} must be 0 (the whole transformer) or more")
    base, data = base_of(workshop), workshop.settings.data
    if isinstance(data, FolderData):
        cache = Path(workshop.settings.parts.latents)
        sets = folder_latents(data, base.encoders, base.scale, base.timing, cache, base.identity)
    else:
        sets = pocket_latents(workshop)
    if own.rank:
        add_adapters(base.transformer, own.rank, own.layers, workshop.settings.train.seed)
    tasks = dict(vars(own.tasks))
    options = FlowOptions(own.dropout, own.audio, 0.0, 0, own.centre, own.width, tasks)
    fps = data.fps if isinstance(data, FolderData | PocketData) else 0.0
    made = FlowObjective(base.transformer, base.text, *sets, base.scale, base.timing, fps, options)
    has_reference = any(getattr(b, "reference", None) is not None for b in sets[0].buckets)
    facts = {"reference_downscale_factor": "1"} if has_reference else {}
    return AdaptObjective(made, facts, base.header)


def pocket_latents(workshop: Workshop) -> tuple[LatentSet, LatentSet]:
    """Encoded clips to train on and held-out ones."""
    data = pocket_data(workshop)
    entries = [*data.buckets.values(), *data.held_out.values()]
    encode_sets(workshop, [name for e in entries if e.share > 0 for name in e.sets])
    return latent_set(workshop, data.buckets), latent_set(workshop, data.held_out)


def pocket_data(workshop: Workshop) -> PocketData:
    """The data settings. Raises UserError if they are of another kind."""
    data = workshop.settings.data
    if not isinstance(data, PocketData):
        raise UserError(
            f"objective={workshop.settings.objective.name} is trained on the pocket world only;"
            " use data=pocket"
        )
    return data


def set_latents(workshop: Workshop, name: str, size: str) -> np.ndarray:
    """All video latents of a set at one size."""
    found = latent_set(workshop, {name: BucketEntry([name], size)})
    return np.asarray(found.buckets[0].video)


def rendered_sounds(workshop: Workshop) -> tuple[Sounds, Sounds]:
    """Sounds to train on and held-out ones, every third of these of two things."""
    entry, config = pocket_data(workshop).sounds, workshop.audio_config
    return (
        _sounds(entry.count, entry.seconds, config, SOUND_SEED, held_out=False),
        _sounds(entry.held_out, entry.seconds, config, HELD_OUT_SEED, held_out=True),
    )


def _sounds(
    count: int, seconds: float, config: AudioVaeConfig, seed: int, held_out: bool
) -> Sounds:
    if count < 1:
        raise UserError("data.sounds.count and data.sounds.held_out must be at least 1")
    rng, waves = np.random.default_rng(seed), []
    for index in range(count):
        scene = held_out_scene(rng, 1 + (index % 3 == 2)) if held_out else training_scene(rng)
        aspect = ASPECTS[index % len(ASPECTS)]
        waves.append(Take.draw(scene, rng).sound(seconds, config.mel.sample_rate, aspect))
    return Sounds.of(waves, config.mel)


def freeze(modules: dict[str, Any], workshop: Workshop) -> None:
    """Put finished modules in the training's dtype, without gradients."""
    Leaves.of(modules, workshop.settings.train.dtype, lambda name: False)
