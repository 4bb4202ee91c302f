"""What the stages of a training share: architecture, folders, and the parts made so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from ltx2.errors import MissingFile, UserError
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.models.latents import AudioTiming, VideoScale
from ltx2.models.tokenizer import PromptTokenizer
from ltx2.models.video_vae_config import vae_scale
from ltx2.pipelines.files import media_path
from ltx2.pipelines.settings import Settings
from ltx2.pocket.tokenizer_files import write_tokenizer_files
from ltx2.training.audio import AudioVaeObjective
from ltx2.training.checkpoint import LATEST, load_state
from ltx2.training.modules import Modules, adopt, declare_flow, declare_part, with_first_values
from ltx2.training.settings import TrainRoot
from ltx2.training.text import TextPath
from ltx2.training.video_vae import VideoVaeObjective

# By part: the objective that makes it.
MAKERS = {
    "video": "video_vae", "audio": "audio_vae", "vocoder": "vocoder", "upsampler": "upsampler",
    "flow": "flow",
}  # fmt: skip
# Range of the latent statistics' means, and of their deviations.
MEANS, DEVIATIONS = (-1.0, 1.0), (0.7, 1.8)


@dataclass
class Workshop:
    """The settings of one training and what they name; `states` collects the facts of parts.

    `base`: settings of a generation, whose model is the one to start from.
    """

    settings: TrainRoot
    base: Settings | None = None
    states: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """Sections of the model's metadata."""
        path = Path(media_path(self.settings.architecture))
        if not path.is_file():
            raise MissingFile(f"architecture={path} does not exist")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "transformer" not in content:
            raise UserError(f"architecture={path} has no section 'transformer'")
        return content

    @cached_property
    def gemma_config(self) -> dict[str, Any]:
        """The text encoder's config.json; its folder is made if it is not there."""
        folder, section = self.gemma_folder, self.architecture["gemma"]
        if not (folder / "config.json").is_file():
            return write_tokenizer_files(folder, section["text_config"], section["sequence"])
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))

    @property
    def gemma_folder(self) -> Path:
        return Path(self.settings.parts.gemma)

    @cached_property
    def scale(self) -> VideoScale:
        return vae_scale(self.architecture["vae"])

    @cached_property
    def audio_config(self) -> AudioVaeConfig:
        return AudioVaeConfig.from_metadata(self.architecture["audio_vae"])

    @property
    def timing(self) -> AudioTiming:
        config = self.audio_config
        return AudioTiming(config.mel.sample_rate, config.mel.hop, config.scale)

    def fresh(self, part: str) -> Modules:
        """The modules of a part with first values."""
        if part == "flow":
            return with_first_values(declare_flow(self.architecture, self.gemma_config), part)
        return declare_part(self.architecture, part)

    def state(self, part: str) -> Path:
        """The state of a part that was trained before. Raises MissingFile."""
        path = Path(getattr(self.settings.parts, part)) / LATEST
        if not path.is_file():
            raise MissingFile(
                f"{self.settings.objective.name} stands on a trained {part}, and {path} does not"
                f" exist; train it first, as task=train objective={MAKERS[part]}, or give its"
                f" folder, as parts.{part}=FOLDER"
            )
        return path

    def finished(self, part: str) -> Modules:
        """The modules of a part with the averaged weights of its state, ready for export."""
        modules, path = self.fresh(part), self.state(part)
        if part == "video":
            self.set_statistics(modules["decoder"])
        self.states[part] = adopt(modules, path)
        if part == "video":
            self._fold_video(modules, path)
        if part == "audio":
            self._fold_audio(modules, path)
        return modules

    def set_statistics(self, decoder: Any, seed: int = 7) -> None:
        """Draw the statistics of the video latent, which the decoder is trained with."""
        channels = self.architecture["vae"]["latent_channels"]
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for low, high in (MEANS, DEVIATIONS):
            values = low + (high - low) * torch.rand(channels, generator=generator)
            drawn.append(values.bfloat16().float())  # as the file will hold them
        held = decoder.per_channel_statistics
        held.mean, held.std = drawn

    def text_path(self, modules: Modules, trains_gemma: bool) -> TextPath:
        """Captions to contexts, by the flow part's modules."""
        tokenizer = PromptTokenizer.from_directory(self.gemma_folder)
        named = {name: module for name, module in modules.items() if name != "transformer"}
        return TextPath(tokenizer, sequence=tokenizer.limit, trains_gemma=trains_gemma, **named)

    def _fold_video(self, modules: Modules, path: Path) -> None:
        """The encoder, which was trained without, gets statistics: the decoder's."""
        held = modules["decoder"].per_channel_statistics
        objective = VideoVaeObjective(modules["encoder"], modules["decoder"], clips=_no_clips)
        objective.restore(_statistics(path))
        objective.fold(held.mean, held.std)
        own = modules["encoder"].per_channel_statistics
        own.mean, own.std = held.mean.clone(), held.std.clone()

    def _fold_audio(self, modules: Modules, path: Path) -> None:
        # Only its statistics are asked for: without sounds it cannot train.
        objective = AudioVaeObjective(modules["encoder"], modules["decoder"], None, None)  # type: ignore[arg-type]
        objective.restore(_statistics(path))
        objective.write_statistics()


def objective_state(path: Path) -> dict[str, torch.Tensor]:
    """What the objective itself put into a state, such as running statistics."""
    tensors, _ = load_state(path)
    prefix = "objective."
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def _statistics(path: Path) -> dict[str, torch.Tensor]:
    found = objective_state(path)
    if not found:
        raise UserError(f"{path} has no running statistics; give the state of an autoencoder")
    return found


def _no_clips(rng: Any, step: int) -> Any:
    raise AssertionError("only for folding")
