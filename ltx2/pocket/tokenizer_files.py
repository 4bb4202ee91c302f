"""The pocket model's text encoder directory but for its weights: a Gemma 3 in miniature.

The tokenizer is word level; its words are those of a corpus of captions and of the grammar's list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.media.atomic import replacing
from ltx2.pocket.captions import random_caption, vocabulary
from ltx2.pocket.world import training_scene

FIRST = ("<pad>", "<eos>", "<bos>", "<unk>")
LAST = ("<img>", "<boi>", "<eoi>")
NAMES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
# Pictures are never read: the vision tower exists for loaders that want one.
IMAGE_PX, PATCH_PX = 28, 14
IMAGE_TOKENS = (IMAGE_PX // PATCH_PX) ** 2


def write_tokenizer_files(
    folder: Path, sizes: Mapping[str, Any], sequence: int = 64, corpus: int = 5_000
) -> dict[str, Any]:
    """Write tokenizer, configs and processor files into `folder`; returns `config.json`'s content.

    `sizes` are entries of `text_config`, such as hidden_size. `sequence`: tokens the model reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus)
    words: dict[str, int] = tokenizer.get_vocab()
    config = _config(words, sizes)
    contents = {
        "config.json": config,
        "generation_config.json": _ids(words) | {"_from_model_config": True},
        "preprocessor_config.json": _preprocessor(),
        "processor_config.json": {
            "processor_class": "Gemma3Processor", "image_seq_length": IMAGE_TOKENS,
        },
        "special_tokens_map.json": NAMES,
        "tokenizer.json": json.loads(tokenizer.to_str()),
        "tokenizer_config.json": NAMES | {
            "padding_side": "left",
            "model_max_length": sequence,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "extra_special_tokens": dict(
                zip(("image_token", "boi_token", "eoi_token"), LAST, strict=True)
            ),
        },
    }  # fmt: skip
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return config


def train_tokenizer(corpus: int, seed: int = 0) -> Any:
    """A word-level tokenizer of the words of `corpus` random captions, in alphabetical order.

    Not by frequency: ids shall not change with the shares of the captions.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    rng = np.random.default_rng(seed)
    texts = [random_caption(training_scene(rng), rng) for _ in range(corpus)]

    def tokenizer(words: dict[str, int]) -> Any:
        made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        return made

    trained = tokenizer({})
    trainer = trainers.WordLevelTrainer(special_tokens=list(FIRST), show_progress=False)
    trained.train_from_iterator([*texts, *vocabulary()], trainer)
    found = sorted(trained.get_vocab().keys() - set(FIRST))
    words = {word: index for index, word in enumerate([*FIRST, *found, *LAST])}
    made = tokenizer(words)
    made.add_special_tokens([*FIRST, *LAST])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    return made


def _ids(words: Mapping[str, int]) -> dict[str, int]:
    return {f"{name}_token_id": words[f"<{name}>"] for name in ("bos", "eos", "pad")}


def _config(words: Mapping[str, int], sizes: Mapping[str, Any]) -> dict[str, Any]:
    ropes = {"full_attention": 1e6, "sliding_attention": 1e4}
    text = {
        "_sliding_window_pattern": 6,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "max_position_embeddings": 8192,
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in ropes.items()
        },
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": False,
        "use_cache": True,
        "vocab_size": len(words),
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": words["<boi>"],
        "eoi_token_index": words["<eoi>"],
        "image_token_index": words["<img>"],
        "dtype": "bfloat16",
        "initializer_range": 0.02,
        "mm_tokens_per_image": IMAGE_TOKENS,
        "model_type": "gemma3",
        **_ids(words),
        "text_config": text | _ids(words) | dict(sizes),
        "tie_word_embeddings": True,
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "image_size": IMAGE_PX,
            "intermediate_size": 64,
            "layer_norm_eps": 1e-6,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 1,
            "patch_size": PATCH_PX,
            "vision_use_head": True,
        },
    }


def _preprocessor() -> dict[str, Any]:
    return {
        "image_processor_type": "Gemma3ImageProcessor",
        "do_resize": True,
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "size": {"height": IMAGE_PX, "width": IMAGE_PX},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_seq_length": IMAGE_TOKENS,
    }
