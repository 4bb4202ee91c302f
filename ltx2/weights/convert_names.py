"""Names of tensors in the official files and in diffusers' folders, and of their components.

Official names are those of a single file; in split files the video VAE may lack its prefix.
Source of diffusers' names: its classes for LTX-2, release 0.42.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What `convert --component` calls the parts of `ltx2.weights.checkpoint.COMPONENTS`.
PARTS = {
    "transformer": ("transformer",),
    "connectors": ("text connectors", "text projections"),
    "video-vae": ("video VAE encoder", "video VAE decoder", "video VAE statistics"),
    "audio-vae": ("audio VAE encoder", "audio VAE decoder", "audio VAE statistics"),
    "vocoder": ("vocoder",),
    "duration-head": ("duration head",),
}
# Files of a split model: name -> components. The projections stand with the transformer.
SPLIT_FILES = {
    "transformer": ("transformer", "connectors"),
    "video-vae": ("video-vae",),
    "audio-vae": ("audio-vae", "vocoder"),
    "duration-head": ("duration-head",),
}
_BARE = ("encoder.", "decoder.", "per_channel_statistics.")
# diffusers' folder of each component, and the class that reads it; 2.3's vocoder has its own.
FOLDERS = {
    "transformer": ("transformer", "LTX2VideoTransformer3DModel"),
    "connectors": ("connectors", "LTX2TextConnectors"),
    "video-vae": ("vae", "AutoencoderKLLTX2Video"),
    "audio-vae": ("audio_vae", "AutoencoderKLLTX2Audio"),
    "vocoder": ("vocoder", "LTX2Vocoder"),
}
# Official part of a name -> diffusers' part; a part is what stands between dots.
_TRANSFORMER = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_CONNECTORS = {
    "transformer_1d_blocks": "transformer_blocks",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_VOCODER = {
    "ups": "upsamplers",
    "resblocks": "resnets",
    "conv_pre": "conv_in",
    "conv_post": "conv_out",
    "act_post": "act_out",
}
# A level of modules that diffusers does not have.
_FILTER, _THEIR_FILTER = ".downsample.lowpass.filter", ".downsample.filter"
_STATISTICS = {"mean-of-means": "latents_mean", "std-of-means": "latents_std"}
_ROOTS = {
    "transformer": {"model.diffusion_model.": ""},
    "connectors": {
        "model.diffusion_model.video_embeddings_connector.": "video_connector.",
        "model.diffusion_model.audio_embeddings_connector.": "audio_connector.",
        "text_embedding_projection.aggregate_embed.": "text_proj_in.",
        "text_embedding_projection.video_aggregate_embed.": "video_text_proj_in.",
        "text_embedding_projection.audio_aggregate_embed.": "audio_text_proj_in.",
    },
    "video-vae": {"vae.encoder.": "encoder.", "vae.decoder.": "decoder."},
    "audio-vae": {"audio_vae.encoder.": "encoder.", "audio_vae.decoder.": "decoder."},
    "vocoder": {"vocoder.": ""},
}
_WORDS = {
    "transformer": _TRANSFORMER,
    "connectors": _CONNECTORS,
    "video-vae": {"res_blocks": "resnets"},
    "audio-vae": {},
    "vocoder": _VOCODER,
}
_STATISTICS_ROOTS = {
    "video-vae": "vae.per_channel_statistics.",
    "audio-vae": "audio_vae.per_channel_statistics.",
}


@dataclass(frozen=True)
class Depth:
    """How many blocks the halves of a video VAE have: their numbers are laid out differently."""

    encoder: int = 0
    decoder: int = 0


def canonical(name: str) -> str:
    """The name a tensor has in a single file."""
    return f"vae.{name}" if name.startswith(_BARE) else name


def to_diffusers(component: str, name: str, depth: Depth) -> str | None:
    """diffusers' name of an official tensor; None if its class has no place for it."""
    root = _STATISTICS_ROOTS.get(component, "\0")
    if name.startswith(root):
        return _STATISTICS.get(name.removeprefix(root))
    if ".timestep_embedder." in name and component == "video-vae":
        return None
    for official, theirs in _ROOTS[component].items():
        if name.startswith(official):
            rest = _words(name.removeprefix(official), _WORDS[component])
            if component == "video-vae":
                rest = _blocks_to_diffusers(official, rest, depth)
            return f"{theirs}{rest.replace(_FILTER, _THEIR_FILTER)}"
    return None


def to_official(component: str, name: str, depth: Depth) -> str | None:
    """The reverse of `to_diffusers`."""
    statistics = {theirs: official for official, theirs in _STATISTICS.items()}
    if component in _STATISTICS_ROOTS and name in statistics:
        return _STATISTICS_ROOTS[component] + statistics[name]
    words = {theirs: official for official, theirs in _WORDS[component].items()}
    for official, theirs in _ROOTS[component].items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs).replace(_THEIR_FILTER, _FILTER)
            if component == "video-vae":
                rest = _blocks_to_official(official, rest, depth)
            return f"{official}{_words(rest, words)}"
    return None


def _words(name: str, words: dict[str, str]) -> str:
    return ".".join(words.get(part, part) for part in name.split("."))


def _blocks_to_diffusers(root: str, name: str, depth: Depth) -> str:
    """Blocks and resamplings alternate in the official list; the widest block is diffusers' own.

    Encoder: block, down, block, down ... block (`mid_block`). Decoder: block (`mid_block`), up,
    block, up, block ...
    """
    found = re.match(r"(down|up)_blocks\.(\d+)\.(.*)", name)
    if found is None:
        return name
    side, index, rest = found[1], int(found[2]), found[3]
    if index == (depth.encoder - 1 if root == "vae.encoder." else 0):
        return f"mid_block.{rest}"
    if side == "down":
        place = "" if index % 2 == 0 else "downsamplers.0."
        return f"down_blocks.{index // 2}.{place}{rest}"
    place = "" if index % 2 == 0 else "upsamplers.0."
    return f"up_blocks.{(index - 1) // 2}.{place}{rest}"


def _blocks_to_official(root: str, name: str, depth: Depth) -> str:
    is_encoder = root == "vae.encoder."
    if name.startswith("mid_block."):
        index = depth.encoder - 1 if is_encoder else 0
        return f"{'down' if is_encoder else 'up'}_blocks.{index}.{name.removeprefix('mid_block.')}"
    found = re.match(r"(down|up)_blocks\.(\d+)\.((?:down|up)samplers\.0\.)?(.*)", name)
    if found is None:
        return name
    block, resamples = int(found[2]), found[3] is not None
    index = 2 * block + resamples if is_encoder else 2 * block + (1 if resamples else 2)
    return f"{found[1]}_blocks.{index}.{found[4]}"
