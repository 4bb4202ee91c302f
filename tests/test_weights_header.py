"""Reading safetensors headers: the numbers, and a clear refusal of everything else."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw

from ltx2.errors import MissingFile, UserError
from ltx2.weights.header import read_header, read_scalar


def test_header_has_names_shapes_dtypes_and_metadata(golden):
    header = read_header(golden / "checkpoints/ltx-2.3-tiny.safetensors")
    assert len(header.tensors) == 1278
    info = header.tensors["model.diffusion_model.patchify_proj.weight"]
    assert (info.dtype, info.shape, info.size) == ("BF16", (64, 16), 1024)
    assert header.model_version == (2, 3, 0)
    assert header.config["transformer"]["num_layers"] == 2


def test_truncated_file_names_both_sizes(golden, tmp_path):
    whole = (golden / "checkpoints/ltx-2-tiny.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=rf"truncated: it has {len(whole) - 1000} .* {len(whole)}"):
        read_header(cut)
    cut.write_bytes(whole[:500])
    with pytest.raises(UserError, match="truncated: it has 500 bytes"):
        read_header(cut)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"0 bytes\) is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"PK\x03\x04" + bytes(40), "a zip or .pt file"),
        (struct.pack("<Q", 12) + b"{not json!!}", "corrupt safetensors header"),
        (struct.pack("<Q", 14) + b'{"a":{"x":[]}}', "corrupt safetensors header"),
        (struct.pack("<Q", 7) + b'{"a":3}', "corrupt safetensors header"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


def test_absent_file_is_missing_file_and_folder_is_refused(tmp_path):
    with pytest.raises(MissingFile, match="does not exist"):
        read_header(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        read_header(tmp_path)


def _with_entries(path, entries, data):
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    ("second", "length"),
    [
        ([0, 8], 8),  # overlaps the first
        ([12, 20], 20),  # leaves a hole
        ([8, 12], 12),  # shorter than its shape
        ([8, 0], 16),  # backwards
        ([8, 16], 20),  # bytes that belong to nothing
    ],
)
def test_tensors_must_fill_the_data_section(tmp_path, second, length):
    entry = {"dtype": "F32", "shape": [2]}
    entries = {"a": entry | {"data_offsets": [0, 8]}, "b": entry | {"data_offsets": second}}
    path = _with_entries(tmp_path / "x.safetensors", entries, bytes(length))
    with pytest.raises(UserError, match="is corrupt"):
        read_header(path)


def test_absent_or_broken_config_is_named(golden, tmp_path):
    with pytest.raises(UserError, match="no 'config' in its metadata"):
        _ = read_header(golden / "checkpoints/lora-tiny.safetensors").config
    for text in ("{", "[1]"):
        path = write_raw(tmp_path / "x.safetensors", {"a": f32(np.ones(1))}, {"config": text})
        with pytest.raises(UserError, match="'config' is not"):
            _ = read_header(path).config


def test_scalars_are_read_in_every_float_type(tmp_path):
    raw = {
        "half": ("F16", (), np.float16(0.75).tobytes()),
        "brain": ("BF16", (1,), np.float32(-1.5).tobytes()[2:]),
        "single": f32(np.float32(0.1)),
        "double": ("F64", (), np.float64(0.1).tobytes()),
        "pair": f32(np.ones(2)),
    }
    header = read_header(write_raw(tmp_path / "x.safetensors", raw))
    values = {name: read_scalar(header, name) for name in list(raw)[:4]}
    assert values == {"half": 0.75, "brain": -1.5, "single": np.float32(0.1), "double": 0.1}
    with pytest.raises(UserError, match="not one float"):
        read_scalar(header, "pair")


def test_a_copy_written_here_is_the_original(golden, tmp_path):
    source = golden / "checkpoints/lora-tiny.safetensors"
    raw, metadata = read_raw(source)
    assert read_raw(write_raw(tmp_path / "copy.safetensors", raw, metadata)) == (raw, metadata)
