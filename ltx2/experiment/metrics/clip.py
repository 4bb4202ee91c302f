"""Whether the pictures show what the prompt says, judged by a CLIP or SigLIP model on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import UNKNOWN, Clip, Measure, Results, check_count, needed
from ltx2.experiment.metrics.picture import Picture

log = logging.getLogger(__name__)

FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")


@dataclass
class ClipSimilarity(Measure):
    """Cosine of the embeddings of the prompt and of `count` frames, on average, in [-1, 1].

    `path` is the folder of a CLIP or SigLIP model; nothing is downloaded. The model runs on the
    CPU, after the last frame. Source: Radford et al. 2021; Hessel et al. 2021 without its factor.
    """

    path: str | None = None
    count: int = 8
    names: ClassVar = ("clip_similarity",)

    def __post_init__(self) -> None:
        check_count("clip.count", self.count)

    def start(self, clip: Clip) -> None:
        folder = self._folder()
        if not clip.height:
            raise UserError("metrics=clip looks at pictures, this run makes sound only")
        transformers = needed("transformers", "transformers", "clip")
        transformers.utils.logging.disable_progress_bar()
        try:
            self._model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
            self._tokens = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._pixels = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(f"metrics.clip.path={self.path} cannot be loaded: {line}") from error
        if not hasattr(self._model.config, "vision_config"):
            kind = self._model.config.model_type
            raise UserError(f"metrics.clip.path={self.path} is a {kind} model; use CLIP or SigLIP")
        self._model.eval().requires_grad_(False)
        self._prompt = clip.prompt
        self._picks = set(np.linspace(0, clip.frames - 1, self.count).round().astype(int).tolist())
        self._seen = 0
        self._kept: list[np.ndarray] = []

    def _folder(self) -> Path:
        if not self.path:
            raise UserError(
                "metrics.clip.path is not set; it needs local weights: the folder of a CLIP or"
                " SigLIP model, such as a copy of openai/clip-vit-base-patch32"
            )
        folder = Path(self.path).expanduser()
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"metrics.clip.path={self.path} lacks {', '.join(missing)}; name the whole folder"
                " of a CLIP or SigLIP model"
            )
        return folder

    def frame(self, picture: Picture) -> None:
        if self._seen in self._picks:
            self._kept.append(picture.rgb8)
        self._seen += 1

    def result(self) -> Results:
        if not self._kept:
            return {"clip_similarity": UNKNOWN}
        pixels = self._pixels(images=self._kept, return_tensors="pt")
        found = self._model(**self._text(), **pixels)
        text, images = (_unit(e.numpy()) for e in (found.text_embeds, found.image_embeds))
        return {"clip_similarity": float((images @ text[0]).mean())}

    def _text(self) -> dict[str, Any]:
        config = self._model.config
        limit = config.text_config.max_position_embeddings
        if len(self._tokens(self._prompt)["input_ids"]) > limit:
            log.warning("metrics=clip reads the first %d tokens of the prompt only", limit)
        # SigLIP was trained on texts filled up to one length, whose filling it sees.
        filled = config.model_type.startswith("siglip")
        found = self._tokens(
            [self._prompt],
            padding="max_length" if filled else False,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        )
        keys = ("input_ids",) if filled else ("input_ids", "attention_mask")
        return {key: found[key] for key in keys}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
