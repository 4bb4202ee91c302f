"""Do the files fit the run and each other? Answered from headers, before a weight is read."""

from __future__ import annotations

from pathlib import Path

from ltx2.errors import UserError
from ltx2.pipelines.components.audio import audio_geometry
from ltx2.pipelines.components.enhance import check_generates
from ltx2.pipelines.components.preflight import METADATA_ERRORS, fit
from ltx2.pipelines.components.text import check_text_files
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.components.upsampler import upsampler_config
from ltx2.pipelines.components.video import latent_channels
from ltx2.pipelines.identity import digest, weights_identity
from ltx2.pipelines.loras import check_loras
from ltx2.pipelines.settings import Settings
from ltx2.weights.checkpoint import SPLIT_PARTS, describe_kind, identify, is_split
from ltx2.weights.header import Header, read_header

WANTED_KINDS = {
    "checkpoint": "model",
    "spatial_upscaler": "upsampler",
    "temporal_upscaler": "upsampler",
    "distilled_lora": "lora",
}
# What the file of a role is told by.
WANTED_PARTS = SPLIT_PARTS | {"duration_head": "duration head"}
PLACE_OF = {
    "model": "model.files.checkpoint.file",
    "lora": "lora.<name>.file",
    "upsampler": "model.files.spatial_upscaler.file",
    "gemma shard": "model.files.text_encoder.file (its folder)",
}


def read_headers(files: dict[str, Path]) -> dict[str, Header]:
    """Headers by role of all files but the text encoder, which may be a folder."""
    headers = {}
    for role, path in files.items():
        if role == "text_encoder":
            continue
        try:
            headers[role] = read_header(path)
        except UserError as error:
            raise UserError(f"{role}: {error}") from None
    return headers


# What passed: the cells of a sweep have mostly the same files.
_passed: set[str] = set()


def check_files(settings: Settings, files: dict[str, Path], headers: dict[str, Header]) -> None:
    """Raise UserError for a file in the wrong place, of the wrong kind or incomplete."""
    read = [settings.model, settings.pipeline, settings.lora, settings.enhance.enabled]
    case = digest([read, sorted((role, weights_identity(p)) for role, p in files.items())])
    if case not in _passed:
        _check_files(settings, files, headers)
        _passed.add(case)


def _check_files(settings: Settings, files: dict[str, Path], headers: dict[str, Header]) -> None:
    for role, header in headers.items():
        wanted = "lora" if role.startswith("lora.") else WANTED_KINDS.get(role)
        found = identify(header).kind
        if wanted is not None and found != wanted:
            place = f"; it belongs under {PLACE_OF[found]}" if found in PLACE_OF else ""
            what = f"{role}: {header.path.name} is {describe_kind(header)}"
            raise UserError(f"{what}, not {_article(wanted)}{place}")
    _check_training(settings, headers["checkpoint"])
    _check_layout(settings, headers)
    for role, header in headers.items():
        if WANTED_KINDS.get(role) == "upsampler":
            _check_components(header)
            _check_channels(role, header, headers.get("video_vae", headers["checkpoint"]))
    if "text_encoder" in files:
        encoder = check_text_files(files["text_encoder"], headers["checkpoint"])
        if settings.enhance.enabled:
            check_generates(encoder)
    check_loras(settings, files, headers["checkpoint"])


def _check_layout(settings: Settings, headers: dict[str, Header]) -> None:
    """A whole model file, with another video VAE if given, or a transformer and its parts."""
    checkpoint = headers["checkpoint"]
    for role in WANTED_PARTS.keys() & headers.keys():
        header, part = headers[role], WANTED_PARTS[role]
        if part not in identify(header).names:
            raise UserError(
                f"{role}: {header.path.name} is {describe_kind(header)} and holds no {part}"
            )
    if is_split(checkpoint):
        absent = [role for role in SPLIT_PARTS if role not in headers]
        if absent:
            keys = " and ".join(f"model.files.{role}.file" for role in absent)
            raise UserError(
                f"{checkpoint.path.name} is a transformer without VAEs; give {keys} as well"
            )
    elif "audio_vae" in headers:
        raise UserError(
            f"audio_vae: {checkpoint.path.name} is a whole model file, of which only the video VAE"
            " can be replaced; drop model.files.audio_vae.file"
        )
    for role in ("checkpoint", *WANTED_PARTS):
        if role in headers:
            _check_components(headers[role])
    _check_widths(headers)


def _check_widths(headers: dict[str, Header]) -> None:
    """Transformer and VAEs of other generations would not fit together."""
    checkpoint = headers["checkpoint"]
    for role in SPLIT_PARTS.keys() & headers.keys():
        header = headers[role]
        try:
            config = transformer_config(checkpoint)
            if role == "video_vae":
                takes, has = config.video.in_channels, latent_channels(header)
            else:
                takes, has = config.audio.in_channels, audio_geometry(header).token_features
        except METADATA_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{role}: {header.path.name} has unusable metadata ({reason})"
            ) from None
        if takes != has:
            raise UserError(
                f"{role}: {header.path.name} makes latents of {has} channels,"
                f" {checkpoint.path.name} takes {takes}; use the VAE of its release"
            )


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
