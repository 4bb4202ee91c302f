"""What a safetensors file is, told from its header: kind, generation, quantisation, components."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ltx2.errors import UserError
from ltx2.models.upsampler import UpsamplerConfig
from ltx2.weights.header import Header, TensorInfo
from ltx2.weights.quantise_stored import FP8, QUANTISATION_TENSORS, scale_name, stored_kind

Kind = Literal["model", "component", "lora", "upsampler", "gemma shard", "unknown"]

# First match wins: the connectors stand below the transformer's prefix but belong to the text.
COMPONENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("text connectors", (
        "model.diffusion_model.video_embeddings_connector.",
        "model.diffusion_model.audio_embeddings_connector.",
        "model.diffusion_model.embeddings_connector.",
    )),
    ("transformer", ("model.diffusion_model.",)),
    ("text projections", ("text_embedding_projection.",)),
    ("audio VAE encoder", ("audio_vae.encoder.",)),
    ("audio VAE decoder", ("audio_vae.decoder.",)),
    ("audio VAE statistics", ("audio_vae.per_channel_statistics.",)),
    ("video VAE encoder", ("vae.encoder.", "encoder.")),
    ("video VAE decoder", ("vae.decoder.", "decoder.")),
    ("video VAE statistics", ("vae.per_channel_statistics.", "per_channel_statistics.")),
    ("vocoder", ("vocoder.",)),
    ("duration head", ("duration_head.",)),
    ("language model", ("language_model.", "model.language_model.", "model.layers.",
                        "model.embed_tokens.", "model.norm.")),
    ("vision and audio towers", ("vision_tower.", "vision_model.", "multi_modal_projector.",
                                 "audio_projector.", "model.vision_embedder.",
                                 "model.embed_vision.", "model.embed_audio.")),
    ("tokenizer files", ("tokenizer_json", "hf_asset__")),
    ("upsampler", ("initial_conv.", "initial_norm.", "res_blocks.", "upsampler.",
                   "post_upsample_res_blocks.", "final_conv.")),
)  # fmt: skip
LORA = re.compile(r"\.lora(_[AB]|_down|_up|\.down|\.up)(\.[^.]+)?\.weight$")
# What a single model file must hold to make video and sound, besides the Gemma directory.
NEEDED = (
    "transformer", "text connectors", "text projections", "video VAE decoder",
    "video VAE statistics", "audio VAE decoder", "audio VAE statistics", "vocoder",
)  # fmt: skip
SECTIONS = ("transformer", "vae", "audio_vae", "vocoder")
# Parts of a model that comes in several files, by role: what such a file is told by.
SPLIT_PARTS = {"video_vae": "video VAE decoder", "audio_vae": "audio VAE decoder"}


@dataclass(frozen=True)
class Part:
    """One component in a file: tensors, parameters (without scales), bytes, tensors per dtype."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Identity:
    """What a file is. `generation` is "2.0", "2.3", "2.5" or "unknown"."""

    kind: Kind
    generation: str
    training: Literal["distilled", "dev", "unknown"]
    quantisation: str
    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components present."""
        return tuple(part.name for part in self.parts)


def identify(header: Header) -> Identity:
    """Recognise a file by its tensor names and metadata; reads no tensor."""
    parts = split_parts(header)
    return Identity(
        _kind(header, {part.name for part in parts}),
        _generation(header),
        _training(header),
        quantisation(header),
        parts,
    )


def split_parts(header: Header) -> tuple[Part, ...]:
    """The file's tensors grouped by component, in the order of `COMPONENTS`."""
    groups: dict[str, list[tuple[str, TensorInfo]]] = {}
    for name, info in header.tensors.items():
        groups.setdefault(component_of(name), []).append((name, info))
    order = [*(name for name, _ in COMPONENTS), "LoRA factors", "other"]
    # Values in a byte of NVFP4, and in a packed word of 32 bits.
    packed = {"U8": 2, "U32": 8 if _packed_mode(header) == "int4" else 4}
    return tuple(_part(name, groups[name], packed) for name in order if name in groups)


def component_of(name: str) -> str:
    """Which component the tensor `name` belongs to: of `COMPONENTS`, "LoRA factors" or "other"."""
    if LORA.search(name):
        return "LoRA factors"
    return next((part for part, prefixes in COMPONENTS if name.startswith(prefixes)), "other")


def _part(name: str, members: Sequence[tuple[str, TensorInfo]], packed: Mapping[str, int]) -> Part:
    weights = [info for tensor, info in members if not tensor.endswith(QUANTISATION_TENSORS)]
    dtypes = Counter(info.dtype for _, info in members)
    return Part(
        name,
        len(members),
        sum(info.size * (packed.get(info.dtype, 1) if info.shape[1:] else 1) for info in weights),
        sum(info.stop - info.start for _, info in members),
        tuple(dtypes.most_common()),
    )


def is_lora(header: Header) -> bool:
    """Whether most tensors of the file are low-rank factors."""
    hits = sum(1 for name in header.tensors if LORA.search(name))
    return 2 * hits > len(header.tensors)


def _kind(header: Header, names: set[str]) -> Kind:
    if is_lora(header):
        return "lora"
    if "transformer" in names:
        return "model"
    if upsampling(header) is not None:
        return "upsampler"
    if names and names <= {"language model", "vision and audio towers", "other"}:
        return "gemma shard" if "language model" in names else "unknown"
    return "component" if names - {"other"} else "unknown"


def upsampling(header: Header) -> str | None:
    """Such as "spatial x2" or "temporal x2"; None when the file is no latent upsampler."""
    if "initial_conv.weight" not in header.tensors or "config" not in header.metadata:
        return None
    return UpsamplerConfig.from_metadata(header.config).kind


def _generation(header: Header) -> str:
    version = header.model_version
    if len(version) >= 2:
        return f"{version[0]}.{version[1]}"
    transformer = _section(header, "transformer")
    if transformer:
        if not transformer.get("cross_attention_adaln", False):
            return "2.0"
        return "2.5" if "use_keyframes_abs_pos_embedding" in transformer else "2.3"
    named = re.search(r"ltx[-_]?(?:v[-_]?)?2\.(\d)", header.path.name.lower())
    if named:
        return f"2.{named[1]}"
    return "2.0" if re.search(r"ltx[-_]?2[-_]19b", header.path.name.lower()) else "unknown"


def _section(header: Header, name: str) -> dict[str, Any]:
    section = header.config.get(name) if "config" in header.metadata else None
    return section if isinstance(section, dict) else {}


def _training(header: Header) -> Literal["distilled", "dev", "unknown"]:
    told = " ".join(v for k, v in header.metadata.items() if k in ("model_type", "model_name"))
    words = set(re.split(r"[^a-z]+", f"{told} {header.path.name}".lower()))
    if "distilled" in words:
        return "distilled"
    return "dev" if "dev" in words else "unknown"


def quantisation(header: Header) -> str:
    """How the weights are stored: "none", "scaled fp8 (N layers)", "nvfp4", "int8 (N layers)"."""
    packed = [n for n in header.tensors if stored_kind(header, n) in ("packed", "mxfp8")]
    if packed:
        return f"{_packed_mode(header)} ({len(packed)} layers)"
    scales = {n: header.tensors.get(scale_name(n)) for n in header.tensors if n.endswith("weight")}
    fp8 = [n for n, info in header.tensors.items() if info.dtype == FP8 and n in scales]
    if any(header.tensors[n].dtype == "U8" and scales[n] is not None for n in scales):
        return "nvfp4"
    scaled = [scales[n] for n in fp8 if scales[n] is not None]
    if any(scale.size != 1 for scale in scaled if scale):
        return "blockwise fp8"
    if scaled:
        return f"scaled fp8 ({len(scaled)} layers)"
    return f"plain fp8 ({len(fp8)} layers)" if fp8 else "none"


def _packed_mode(header: Header) -> str:
    """As the file's metadata says; shapes alone do not tell 4 bits from 8."""
    try:
        told = json.loads(header.metadata.get("quantization", "{}"))
        return str(told["mode"])
    except (ValueError, TypeError, KeyError):
        return "packed"


def describe_kind(header: Header) -> str:
    """A few words for a message: "a LoRA", "an LTX-2.3 model file", "a temporal x2 upsampler"."""
    identity = identify(header)
    generation = "" if identity.generation == "unknown" else f"-{identity.generation}"
    return {
        "model": f"an LTX{generation} model file",
        "component": "a file with only " + ", ".join(identity.names),
        "lora": "a LoRA",
        "upsampler": f"a {upsampling(header)} latent upsampler",
        "gemma shard": "a part of a Gemma text encoder",
        "unknown": "not a kind of file this program knows",
    }[identity.kind]


USE = {
    "lora": "list it under loras",
    "upsampler": "give it as the upsampler",
    "gemma shard": "give its folder as the text encoder",
    "model": "give it as the model",
}


def require_kind(header: Header, kind: Kind, role: str) -> None:
    """Raises UserError, naming what the file is, unless it is of `kind`; `role`: what for."""
    actual = identify(header).kind
    if actual != kind:
        advice = f"; {USE[actual]} instead" if actual in USE else ""
        raise UserError(
            f"{header.path.name} was given as {role} but is {describe_kind(header)}{advice}"
        )


def is_split(header: Header) -> bool:
    """Whether a model file is a transformer whose VAEs stand in files of their own."""
    names = identify(header).names
    return "transformer" in names and not any("VAE" in name for name in names)


def check_complete(header: Header) -> None:
    """Raises UserError unless `header` is a single-file model from which a clip can be made."""
    require_kind(header, "model", "the model")
    if quantisation(header) == "blockwise fp8":
        raise UserError(
            f"{header.path.name} is quantised as {quantisation(header)}, which is not supported;"
            " use the bf16 file or the one with one fp8 scale per layer"
        )
    sections = [name for name in SECTIONS if not _section(header, name)]
    absent = [name for name in NEEDED if name not in identify(header).names]
    if "config" not in header.metadata or sections or absent:
        raise UserError(
            f"{header.path.name} is not a complete model file: "
            + "; ".join(
                [f"no {name} tensors" for name in absent]
                + [f"no '{name}' in its metadata" for name in sections]
            )
        )
