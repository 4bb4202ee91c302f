"""Metrics with weights: tiny random models in the real formats, and refusals without them."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from metric_clips import FPS, clip_of, measure, noise
from safetensors.numpy import save_file

from ltx2.errors import UserError
from ltx2.experiment.metrics.clip import ClipSimilarity
from ltx2.experiment.metrics.lpips import LAYERS, Lpips, _expected, distance, features
from ltx2.media.video import VideoWriter

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
FRAMES = noise(4, size=(64, 96), smooth=2)
WORDS = ["<unk>", "<s>", "</s>", "a", "red", "blue", "circle", "square"]
PART = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(params=["clip", "siglip"])
def model_folder(request, tmp_path):
    """A folder with a tiny random model, its tokenizer and its picture processing."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    text = PART | {"vocab_size": len(WORDS), "max_position_embeddings": 8}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    vision = PART | {"image_size": 32, "patch_size": 8}
    if request.param == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        transformers.CLIPModel(config).save_pretrained(tmp_path)
        crop, size = True, {"shortest_edge": 32}
    else:
        text |= {"projection_size": 16}
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        transformers.SiglipModel(config).save_pretrained(tmp_path)
        crop, size = False, {"height": 32, "width": 32}
    _save_tokenizer(transformers, tmp_path)
    kind = "CLIPImageProcessor" if request.param == "clip" else "SiglipImageProcessor"
    processing = {
        "image_processor_type": kind,
        "size": size,
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": crop,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processing))
    return tmp_path


def _save_tokenizer(transformers, folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    table = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    table.pre_tokenizer = Whitespace()
    table.post_processor = TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="</s>", eos_token="</s>", bos_token="<s>"
    ).save_pretrained(folder)


def expected_similarity(folder, prompt, frames):
    """Through the model's own logits, which are the cosine, scaled and shifted."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(frames), return_tensors="pt")
    tokens = [1, *(WORDS.index(word) for word in prompt.split()), 2]
    if model.config.model_type == "siglip":
        tokens += [2] * (8 - len(tokens))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), **pixels).logits_per_image
        bias = getattr(model, "logit_bias", torch.zeros(1))
        return float(((logits - bias) / model.logit_scale.exp()).mean())


def test_clip_similarity_is_the_cosine_the_model_itself_computes(model_folder):
    found = measure(ClipSimilarity(str(model_folder)), FRAMES, prompt="a red circle")
    picked = (np.clip(FRAMES, 0, 1) * 255).astype(np.uint8)
    expected = expected_similarity(model_folder, "a red circle", picked)
    assert found["clip_similarity"] == pytest.approx(expected, abs=1e-5)
    other = measure(ClipSimilarity(str(model_folder)), FRAMES, prompt="blue square")
    assert abs(other["clip_similarity"] - found["clip_similarity"]) > 1e-5


def test_clip_similarity_looks_at_evenly_spread_frames(model_folder):
    two = measure(ClipSimilarity(str(model_folder), count=2), FRAMES)
    ends = measure(ClipSimilarity(str(model_folder), count=2), FRAMES[[0, -1]])
    assert two["clip_similarity"] == pytest.approx(ends["clip_similarity"], abs=1e-6)


def test_a_long_prompt_is_cut_with_a_warning(model_folder, caplog):
    metric = ClipSimilarity(str(model_folder))
    found = measure(metric, FRAMES, prompt="a red circle " * 10)
    assert np.isfinite(found["clip_similarity"])
    assert "reads the first 8 tokens of the prompt only" in caplog.text


def test_clip_asks_for_weights_on_disk_and_downloads_nothing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for path, message in (
        (None, "metrics.clip.path is not set; it needs local weights"),
        (str(tmp_path), "lacks preprocessor_config.json, tokenizer_config.json; name the whole"),
        ("openai/clip-vit-base-patch32", "lacks config.json"),
    ):
        with pytest.raises(UserError) as caught:
            ClipSimilarity(path).start(clip_of(FRAMES))
        assert message in str(caught.value)


def test_a_damaged_clip_folder_is_refused_in_one_line(model_folder):
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        ClipSimilarity(str(model_folder)).start(clip_of(FRAMES))
    assert str(caught.value).startswith(f"metrics.clip.path={model_folder} cannot be loaded: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def lpips_file(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in _expected().items()
    }
    tensors = {k: np.abs(v) if k.startswith("lin") else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "lpips.safetensors")
    return tmp_path / "lpips.safetensors"


@needs_torch
def test_lpips_agrees_with_the_same_formula_in_torch(lpips_file):
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import conv2d, max_pool2d, normalize

    weights = load_file(lpips_file)

    def activations(picture):
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        x = (x - torch.tensor(shift).view(1, 3, 1, 1)) / torch.tensor(scale).view(1, 3, 1, 1)
        for place, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            x = max_pool2d(x, 3, 2) if place in (3, 6) else x
            kernel, bias = (weights[f"features.{place}.{part}"] for part in ("weight", "bias"))
            x = conv2d(x, kernel, bias, stride, padding).relu()
            yield x

    ours, theirs = (FRAMES[:2] * 255).astype(np.uint8)
    expected = 0.0
    for index, (a, b) in enumerate(zip(activations(ours), activations(theirs), strict=True)):
        squares = (normalize(a, dim=1) - normalize(b, dim=1)) ** 2
        expected += float(conv2d(squares, weights[f"lin{index}.model.1.weight"]).mean())
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    assert distance(arrays, ours, theirs) == pytest.approx(expected, rel=1e-4)
    assert [f.shape[2] for f in features(arrays, ours)] == [layer.shape[0] for layer in LAYERS]


def test_lpips_of_the_same_frames_is_zero_and_grows_with_noise(lpips_file, tmp_path):
    with VideoWriter(tmp_path / "frames", FPS) as writer:
        writer.write(FRAMES)
    metric = Lpips(str(tmp_path / "frames"), str(lpips_file), every=1)
    assert measure(metric, FRAMES)["lpips"] == 0
    other = noise(4, size=(64, 96), seed=1)
    little, much = (measure(metric, (1 - x) * FRAMES + x * other)["lpips"] for x in (0.1, 0.5))
    assert 0 < little < much


def test_lpips_asks_for_weights_and_names_what_a_file_lacks(lpips_file, tmp_path):
    with VideoWriter(tmp_path / "frames", FPS) as writer:
        writer.write(FRAMES)
    reference = str(tmp_path / "frames")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for path, message in (
        (None, "metrics.lpips.path is not set; it needs local weights"),
        (tmp_path / "other.safetensors", "lacks 15 tensors, first 'features.0.weight'"),
        (tmp_path / "text.safetensors", "cannot be read"),
        (tmp_path / "none.safetensors", "cannot be read"),
    ):
        with pytest.raises(UserError) as caught:
            Lpips(reference, path and str(path)).start(clip_of(FRAMES))
        assert message in str(caught.value)
    with pytest.raises(UserError, match="reference is not set"):
        Lpips(None, str(lpips_file)).start(clip_of(FRAMES))
