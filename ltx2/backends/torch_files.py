"""Tensors of safetensors files for PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

# As safetensors names them.
STORED = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn, "U8": torch.uint8, "I8": torch.int8, "U32": torch.uint32,
}  # fmt: skip


class TensorFile:
    """Tensors of one safetensors file, memory-mapped: only what is asked for is read."""

    def __init__(self, path: str) -> None:
        from safetensors import safe_open

        self._file = safe_open(path, framework="pt", device="cpu")

    def get(self, name: str) -> Tensor:
        return self._file.get_tensor(name)
