"""Do the files fit the run and each other? Answered from headers, before a weight is read."""

from __future__ import annotations

from pathlib import Path

from ltx2.errors import UserError
from ltx2.models.tokenizer import PromptTokenizer
from ltx2.pipelines.components.preflight import fit
from ltx2.pipelines.components.text import check_text_files
from ltx2.pipelines.components.upsampler import upsampler_config
from ltx2.pipelines.components.video import latent_channels
from ltx2.pipelines.loras import check_loras
from ltx2.pipelines.settings import Settings
from ltx2.weights.checkpoint import describe_kind, identify
from ltx2.weights.header import Header, read_header

WANTED_KINDS = {
    "checkpoint": "model",
    "spatial_upscaler": "upsampler",
    "temporal_upscaler": "upsampler",
    "distilled_lora": "lora",
}
PLACE_OF = {
    "model": "model.files.checkpoint.file",
    "lora": "lora.<name>.file",
    "upsampler": "model.files.spatial_upscaler.file",
    "gemma shard": "model.files.text_encoder.file (its folder)",
}


def read_headers(files: dict[str, Path]) -> dict[str, Header]:
    """Headers by role of all files but the text encoder, which is a folder."""
    headers = {}
    for role, path in files.items():
        if role == "text_encoder":
            continue
        try:
            headers[role] = read_header(path)
        except UserError as error:
            raise UserError(f"{role}: {error}") from None
    return headers


def check_files(settings: Settings, files: dict[str, Path], headers: dict[str, Header]) -> None:
    """Raise UserError for a file in the wrong place, of the wrong kind or incomplete."""
    for role, header in headers.items():
        wanted = "lora" if role.startswith("lora.") else WANTED_KINDS.get(role)
        found = identify(header).kind
        if wanted is not None and found != wanted:
            place = f"; it belongs under {PLACE_OF[found]}" if found in PLACE_OF else ""
            what = f"{role}: {header.path.name} is {describe_kind(header)}"
            raise UserError(f"{what}, not {_article(wanted)}{place}")
    _check_training(settings, headers["checkpoint"])
    _check_components(headers["checkpoint"])
    for role, header in headers.items():
        if WANTED_KINDS.get(role) == "upsampler":
            _check_components(header)
            _check_channels(role, header, headers["checkpoint"])
    if "text_encoder" in files:
        folder = files["text_encoder"]
        if not folder.is_dir():
            raise UserError(f"text_encoder: {folder} is a file; give the folder of the Gemma model")
        check_text_files(folder, headers["checkpoint"])
    if settings.enhance.enabled:
        # Raises where the tokenizer has no turns to hold a conversation in.
        PromptTokenizer.from_directory(folder).chat("", settings.prompt)
    check_loras(settings, files, headers["checkpoint"])


def _article(kind: str) -> str:
    return {"upsampler": "an upsampler", "lora": "a LoRA"}.get(kind, f"a {kind} file")


def _check_training(settings: Settings, checkpoint: Header) -> None:
    """The file's own name or metadata against the kind the config claims."""
    training = identify(checkpoint).training
    kind = settings.model.kind
    if training != "unknown" and kind in ("dev", "distilled", "any") and training != kind:
        raise UserError(
            f"{checkpoint.path.name} is a {training} checkpoint, but model.kind={kind};"
            f" set model.kind={training} or choose another file"
        )


def _check_components(header: Header) -> None:
    """Every tensor that the run will read is there with the right shape."""
    problems = fit(header).problems
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


def _check_channels(role: str, upsampler: Header, checkpoint: Header) -> None:
    takes, has = upsampler_config(upsampler).in_channels, latent_channels(checkpoint)
    if takes != has:
        raise UserError(
            f"{role}: {upsampler.path.name} takes latents of {takes} channels, those of"
            f" {checkpoint.path.name} have {has}; use the upsampler of its release"
        )
