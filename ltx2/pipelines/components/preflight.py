"""Whether a model file holds what its metadata promises, told without reading a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ltx2.errors import UserError
from ltx2.pipelines.components.audio import (
    load_audio_decoder,
    load_audio_encoder,
    load_vocoder,
)
from ltx2.pipelines.components.text import PROJECTION, load_connectors, load_features
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler
from ltx2.pipelines.components.video import load_video_encoder, read_video_decoder
from ltx2.pipelines.durations import load_duration_head
from ltx2.weights.checkpoint import component_of
from ltx2.weights.dry import DryBackend
from ltx2.weights.header import Header
from ltx2.weights.quantise import STORED
from ltx2.weights.quantise_stored import QUANTISATION_TENSORS

Loader = Callable[[Header, DryBackend], object]

# What a value of the wrong kind in the metadata ends in.
METADATA_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# By name of the component in `ltx2.weights.checkpoint`: what builds it.
LOADERS: dict[str, Loader] = {
    "transformer": lambda header, dry: load_transformer(header, dry, "fp32", quantisation=STORED),
    "text connectors": lambda header, dry: load_connectors(header, dry, "fp32"),
    "text projections": lambda header, dry: _features(header, dry),
    "video VAE encoder": lambda header, dry: load_video_encoder(header, dry, "fp32"),
    "video VAE decoder": lambda header, dry: read_video_decoder(header, dry, "fp32"),
    "audio VAE encoder": lambda header, dry: load_audio_encoder(header, dry, "fp32"),
    "audio VAE decoder": lambda header, dry: load_audio_decoder(header, dry, "fp32"),
    "vocoder": lambda header, dry: load_vocoder(header, dry),
    "duration head": lambda header, dry: load_duration_head(header, dry, "fp32"),
    "upsampler": lambda header, dry: load_upsampler(header, dry),
}


@dataclass(frozen=True)
class Fit:
    """Result of building a file's components without weights.

    `tensors` and `parameters` count what the modules take from the file, `unused` the tensors
    they leave, by component; `problems` are the messages loading would end with.
    """

    tensors: int
    parameters: int
    unused: dict[str, int]
    problems: tuple[str, ...]


def fit(header: Header) -> Fit:
    """Build every component that `header` has tensors of, and count."""
    dry = DryBackend()
    problems = []
    present = {component_of(name) for name in header.tensors}
    for component in LOADERS.keys() & present:
        try:
            LOADERS[component](header, dry)
        except UserError as error:
            problems.append(str(error))
        except METADATA_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            problems.append(f"{header.path.name} has unusable metadata of {component} ({reason})")
    taken = [header.tensors[n] for n in dry.used if not n.endswith(QUANTISATION_TENSORS)]
    # Scales belong to the weights beside them.
    left = (n for n in header.tensors.keys() - dry.used if not n.endswith(QUANTISATION_TENSORS))
    return Fit(
        len(taken),
        sum(info.size for info in taken),
        dict(Counter(map(component_of, left))),
        tuple(sorted(problems)),
    )


def _features(header: Header, dry: DryBackend) -> object:
    widths = {
        info.shape[-1]
        for name, info in header.tensors.items()
        if name.startswith(PROJECTION) and name.endswith(".weight")
    }
    section = header.config.get("transformer")
    if not isinstance(section, dict) or not widths:
        raise UserError(f"{header.path.name} has text projections but no 'transformer' metadata")
    return load_features(section, header, max(widths), dry, "fp32")
