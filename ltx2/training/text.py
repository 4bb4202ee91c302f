"""The text path as it is trained: batches of captions to contexts for the transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ltx2.models.connectors import Connector
from ltx2.models.gemma_tower import GemmaTower
from ltx2.models.text_features import Features
from ltx2.models.tokenizer import PromptTokenizer
from ltx2.models.transformer import Transformer
from ltx2.ops import Array


@dataclass
class TextPath:
    """Tokenizer, language model, projections and connectors; `sequence` is the context's length."""

    tokenizer: PromptTokenizer
    gemma: GemmaTower
    features: Features
    video_connector: Connector
    audio_connector: Connector
    sequence: int
    trains_gemma: bool = True

    @property
    def modules(self) -> dict[str, Any]:
        """What is trained or saved, by name."""
        return {
            "gemma": self.gemma,
            "features": self.features,
            "video_connector": self.video_connector,
            "audio_connector": self.audio_connector,
        }

    def __call__(
        self, captions: Sequence[str], transformer: Transformer
    ) -> tuple[Array | None, Array | None]:
        """Projected contexts (B, S, D) and (B, S, D'); differentiable.

        Prompts of different lengths share a batch: tokens stand first, and causal attention keeps
        what follows them from reaching them.
        """
        prompts = [self.tokenizer(text, self.sequence).ids for text in captions]
        lengths = np.array([len(ids) for ids in prompts])
        padded = np.full((len(prompts), lengths.max()), self.tokenizer.pad, np.int32)
        for row, ids in zip(padded, prompts, strict=True):
            row[: len(ids)] = ids
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_gemma):
            states = self.gemma(padded)
        video, audio = self.features(states, lengths)
        contexts = (
            self.video_connector(video, self.sequence, lengths),
            self.audio_connector(audio, self.sequence, lengths),
        )
        return transformer.project_context(*contexts)
