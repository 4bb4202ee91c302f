"""Loading the diffusion transformer from a single-file or split checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltx2.errors import UserError
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_config import STREAMS, TransformerConfig
from ltx2.weights.build import Filling, Prefixes, fill, match
from ltx2.weights.header import Header
from ltx2.weights.quantise import UNPACKED, Quantisation
from ltx2.weights.streaming import Streaming, stream_blocks

# The text connectors share the transformer's prefix and belong to the text components.
PREFIXES = Prefixes(
    own=("model.diffusion_model.",),
    ignored=("video_embeddings_connector.", "audio_embeddings_connector."),
)


def transformer_config(header: Header) -> TransformerConfig:
    """The architecture; raises UserError for a file whose metadata describes no transformer."""
    section = header.config.get("transformer")
    if not isinstance(section, dict):
        raise UserError(
            f"{header.path.name} has no 'transformer' in its metadata; the file of the diffusion"
            " transformer is needed (a VAE, an upsampler or a LoRA goes elsewhere)"
        )
    return TransformerConfig.from_metadata(section)


def load_transformer(
    header: Header,
    backend: Any,
    dtype: str,
    streams: Sequence[str] = STREAMS,
    streaming: Streaming | None = None,
    quantisation: Quantisation = UNPACKED,
) -> Transformer:
    """The transformer of `header`, its weights in `dtype`; `streams` may leave one out.

    With `streaming` the weights of its blocks are read when a block runs. `quantisation` says
    which layers are held in few bits: none, unless it is given.
    """
    module = Transformer.declare(transformer_config(header), streams)
    found = match(module, header, PREFIXES, "the transformer")
    if streaming is None:
        return fill(module, found, backend, dtype, quantisation)
    module.streamed = True
    filling = Filling.of(found, backend, dtype, quantisation)
    return stream_blocks(module, "transformer_blocks", filling, streaming)
