"""`ltx2 inspect` on small files, broken files, and full-size ones that hold no data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw, write_sparse

from ltx2.inspect_cli import main
from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.transformer import Transformer
from ltx2.models.video_vae import VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import VideoEncoderConfig
from ltx2.models.vocoder import Generator
from ltx2.models.vocoder_bwe import ExtendedVocoder
from ltx2.nn.module import params
from ltx2.pipelines.components.audio import audio_config, vocoder_config
from ltx2.pipelines.components.preflight import fit
from ltx2.pipelines.components.text import declare_connectors, declare_features
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.components.video import decoder_config, vae_section
from ltx2.weights.checkpoint import check_complete, identify
from ltx2.weights.header import Header, read_header

DATA = Path(__file__).parent / "data"
TRANSFORMER = "model.diffusion_model."
FEATURES = 3840 * 49  # Gemma 3 12B: width times hidden states


def declared_shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the metadata of `header` asks for."""
    section = header.config["transformer"]
    features, _ = declare_features(section, FEATURES)
    connectors = declare_connectors(section)
    vocoder = ExtendedVocoder if "bwe" in header.config["vocoder"] else Generator
    trees = {
        TRANSFORMER: Transformer.declare(transformer_config(header)),
        "text_embedding_projection.": features,
        f"{TRANSFORMER}video_embeddings_connector.": connectors["video"],
        f"{TRANSFORMER}audio_embeddings_connector.": connectors["audio"],
        "vae.encoder.": VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae_section(header))),
        "vae.decoder.": VideoDecoder.declare(decoder_config(header)),
        "audio_vae.encoder.": AudioEncoder.declare(audio_config(header)),
        "audio_vae.decoder.": AudioDecoder.declare(audio_config(header)),
        "vocoder.": vocoder.declare(vocoder_config(header)),
    }
    shapes = {}
    for prefix, tree in trees.items():
        for slot in params(tree, prefix):
            # Both halves of a VAE share one set of statistics, which stands beside them.
            name = re.sub(r"(en|de)coder\.per_channel", "per_channel", slot.name)
            shapes[name] = slot.value.shape
    shapes.pop("vocoder.resampler.kernel", None)  # computed, never stored
    return shapes


def conditioning_shapes() -> dict[str, tuple[int, ...]]:
    """The 45 tensors of the 2.0 file that its metadata says are not used."""

    def embedder(name: str, width: int) -> dict[str, tuple[int, ...]]:
        stem = f"vae.decoder.{name}.timestep_embedder.linear_"
        return {
            f"{stem}1.weight": (width, 256),
            f"{stem}1.bias": (width,),
            f"{stem}2.weight": (width, width),
            f"{stem}2.bias": (width,),
        }

    statistics = ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")
    shapes = {f"vae.per_channel_statistics.{name}": (128,) for name in statistics}
    shapes["vae.decoder.timestep_scale_multiplier"] = ()
    shapes["vae.decoder.last_scale_shift_table"] = (2, 128)
    shapes |= embedder("last_time_embedder", 256)
    for block, channels in ((0, 1024), (2, 512), (4, 256), (6, 128)):
        shapes |= embedder(f"up_blocks.{block}.time_embedder", 4 * channels)
        for layer in range(5):
            table = f"vae.decoder.up_blocks.{block}.res_blocks.{layer}.scale_shift_table"
            shapes[table] = (4, channels)
    return shapes


def full_size_file(tmp_path, name, config, extra=None, **metadata) -> Header:
    """A sparse file with the names, shapes and dtypes of a released single file."""
    text = (DATA / f"{config}-config.json").read_text()
    metadata["config"] = json.dumps(json.loads(text))
    shapes = declared_shapes(Header(Path(name), {}, metadata, 0, 0)) | (extra or {})
    entries = {}
    for tensor, shape in shapes.items():
        in_float32 = tensor.startswith(TRANSFORMER) and "scale_shift_table" in tensor
        entries[tensor] = ("F32" if in_float32 else "BF16", shape)
    return read_header(write_sparse(tmp_path / f"{name}.safetensors", entries, metadata))


@pytest.fixture
def ltx2_19b(tmp_path) -> Header:
    return full_size_file(tmp_path, "ltx-2-19b-dev", "ltx-2-19b", conditioning_shapes())


def test_full_size_2_0_file_has_the_documented_counts(ltx2_19b):
    identity = identify(ltx2_19b)
    assert len(ltx2_19b.tensors) == 4094
    assert sum(part.bytes for part in identity.parts) == 43_333_322_956
    assert (identity.kind, identity.generation, identity.training) == ("model", "2.0", "dev")
    parts = {part.name: (part.tensors, part.parameters) for part in identity.parts}
    assert parts["transformer"] == (3510, 18_876_174_592)
    assert parts["text connectors"] == (58, 2 * 354_470_400)
    assert parts["text projections"] == (1, 722_534_400)
    assert parts["video VAE encoder"] == (92, 694_098_881)
    assert parts["video VAE decoder"] == (90 + 42, 528_380_720 + 24_433_921)
    assert parts["audio VAE decoder"] == (56, 31_915_138)
    assert parts["audio VAE encoder"] == (44, 21_333_008)
    assert parts["vocoder"] == (194, 55_592_802)
    check_complete(ltx2_19b)


def test_full_size_2_0_file_builds_what_its_metadata_asks_for(ltx2_19b):
    result = fit(ltx2_19b)
    assert (result.tensors, result.parameters) == (4049, 21_638_970_853)
    assert result.unused == {"video VAE decoder": 42, "video VAE statistics": 3}
    assert result.problems == ()


def test_full_size_2_3_file_has_the_documented_counts(tmp_path):
    unused = {"vocoder.mel_stft.stft_fn.inverse_basis": (514, 1, 512)}
    header = full_size_file(tmp_path, "ltx-2.3-22b", "ltx-2.3-22b", unused, model_version="2.3.0")
    assert len(header.tensors) == 5947
    assert sum(info.size for info in header.tensors.values()) == 23_069_505_387
    parts = {part.name: (part.tensors, part.parameters) for part in identify(header).parts}
    assert parts["transformer"] == (4186, 18_988_838_144)
    assert parts["text connectors"] == (258, 1_612_546_304 + 403_620_096)
    assert parts["text projections"] == (4, 1_156_061_184)
    assert parts["video VAE decoder"] == (84, 407_169_072)
    assert parts["video VAE encoder"] == (84, 318_936_897)
    assert parts["vocoder"] == (1227, 129_085_032)
    # The published distilled file has 46,149,345,334 bytes; what is left is its header.
    assert 500_000 < 46_149_345_334 - sum(p.bytes for p in identify(header).parts) < 1_000_000
    assert fit(header).unused == {"vocoder": 1}
    assert fit(header).problems == ()


def test_full_size_file_is_inspected_in_a_second_without_a_framework(ltx2_19b):
    script = (
        "import sys; from ltx2.inspect_cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'mlx', 'transformers'} & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, str(ltx2_19b.path)]
    cwd = Path(__file__).parent.parent
    durations = []
    for _ in range(3):  # the machine may be busy: the best of three
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 1
    assert done.stdout.splitlines()[-1] == "[]"
    for words in (
        r"kind +an LTX-2\.0 model file",
        r"training +dev",
        r"quantisation +none",
        r"size +43\.3 GB \(43,33\d,\d{3},\d{3} bytes\)",
        r"data +43,333,322,956 bytes",
        r"tensors +4,094\n",
        r"dtypes +BF16 \(3,900\), F32 \(194\)",
        r"built +4,049 tensors, 21,638,970,853 parameters",
        r"not built +42 of video VAE decoder, 3 of video VAE statistics",
        r"transformer +3,510 +18,876,174,592 +37\.8 GB",
    ):
        assert re.search(words, done.stdout), words


def run(capsys, *paths: Path) -> tuple[int, str, str]:
    code = main([str(path) for path in paths])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ltx-2.3-tiny", r"version +2\.3\.0"),
        ("ltx-2.3-tiny", r"lacks +nothing"),
        ("ltx-2-tiny-fp8", r"quantisation +scaled fp8 \(54 layers\)"),
        ("ltx-2-tiny-fp8", r"built +198 tensors, 357,552 parameters\n +not built +none"),
        ("ltx-2-tiny-fp8", r"lacks +text connectors, .*vocoder"),
        ("lora-tiny", r"pairs +32\n +rank +4\n +alpha / rank +1\n"),
        ("ic-lora-tiny", r"reference +2 times smaller, 1 times slower"),
        ("spatial-upscaler-x1.5-tiny", r"kind +a spatial x1\.5 latent upsampler"),
        ("spatial-upscaler-x1.5-tiny", r"built +25 tensors, 221,993 parameters"),
    ],
)
def test_each_kind_of_file_is_described(golden, capsys, name, words):
    code, out, _ = run(capsys, golden / f"checkpoints/{name}.safetensors")
    assert code == 0
    assert re.search(words, out)


def test_gemma_folder_is_described_over_all_its_files(golden, capsys):
    code, out, _ = run(capsys, golden / "checkpoints/gemma-3-tiny")
    assert code == 0
    assert re.search(r"files +2\n", out)
    assert re.search(r"tensors +103\n", out)
    assert re.search(r"language model +80 +249,696", out)


def test_a_model_that_cannot_load_is_a_problem_and_exit_status_1(golden, tmp_path, capsys):
    raw, metadata = read_raw(golden / "checkpoints/ltx-2-tiny.safetensors")
    del raw["vocoder.conv_pre.bias"]
    raw["vae.decoder.conv_in.conv.bias"] = f32(np.ones(3))
    path = write_raw(tmp_path / "x.safetensors", raw, metadata)
    code, out, _ = run(capsys, path)
    assert code == 1
    assert "problem: x.safetensors does not fit its own metadata as the vocoder" in out
    assert "1 tensors are missing: vocoder.conv_pre.bias" in out
    assert "'vae.decoder.conv_in.conv.bias' [3] instead of [32]" in out


def test_file_of_no_known_kind_is_a_problem(tmp_path, capsys):
    path = write_raw(tmp_path / "x.safetensors", {"weight": f32(np.ones(3))}, {"config": "{}"})
    code, out, _ = run(capsys, path)
    assert code == 1
    assert "problem: x.safetensors is not a kind of file this program knows" in out


def test_unreadable_files_are_one_line_on_stderr_and_the_rest_goes_on(golden, tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((golden / "checkpoints/lora-tiny.safetensors").read_bytes()[:-7])
    absent = tmp_path / "absent.safetensors"
    good = golden / "checkpoints/lora-tiny.safetensors"
    code, out, err = run(capsys, broken, absent, tmp_path, good)
    assert code == 1
    first, second, third = err.splitlines()
    assert "broken.safetensors is truncated" in first
    assert "absent.safetensors does not exist" in second
    assert "has no config.json" in third
    assert "a LoRA" in out
