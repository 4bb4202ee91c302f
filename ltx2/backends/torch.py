"""PyTorch implementation of the ops (CUDA, MPS, CPU).

Convolutions see channels-first views of channels-last memory, so no activation is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.backends import composed, torch_fused
from ltx2.backends.composed import rotate as rotate
from ltx2.backends.convolution import native_padding, padded_size, split_convolution
from ltx2.backends.memory import host_free_bytes, release_host_memory
from ltx2.backends.torch_attention import attention as attention
from ltx2.backends.torch_attention import choose_attention, choose_neighbourhood
from ltx2.backends.torch_attention import neighbourhood_attention as neighbourhood_attention
from ltx2.backends.torch_compile import Call, check_compile, compiled
from ltx2.backends.torch_device import cpu_has_bf16, resolve_device
from ltx2.backends.torch_files import STORED, TensorFile
from ltx2.backends.torch_padding import pad as pad
from ltx2.backends.torch_quantised import dequantise as dequantise
from ltx2.backends.torch_quantised import fp8_linear as fp8_linear
from ltx2.backends.torch_quantised import from_fp4 as from_fp4
from ltx2.backends.torch_quantised import from_fp8 as from_fp8
from ltx2.backends.torch_quantised import has_fp8_products
from ltx2.backends.torch_quantised import quantise as quantise
from ltx2.backends.torch_quantised import quantised_linear as quantised_linear
from ltx2.backends.torch_quantised import to_fp8 as to_fp8
from ltx2.backends.torch_transfer import Transfers

# Kernels on CUDA and MPS index with 32 bits; a convolution beyond this many elements is split.
SAFE_ELEMENTS = 2**31 - 1


def asarray(host: np.ndarray, ref: Tensor) -> Tensor:
    host = np.array(host, np.float32 if host.dtype == np.float64 else None, order="C")
    return torch.from_numpy(host).to(ref.device)


def to_numpy(x: Tensor) -> np.ndarray:
    x = x.detach()
    x = x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return x.cpu().numpy().copy()


def f32(x: Tensor) -> Tensor:
    return x.float()


def like(x: Tensor, ref: Tensor) -> Tensor:
    return x.to(ref.dtype)


def zeros(shape: tuple[int, ...], ref: Tensor) -> Tensor:
    return torch.zeros(shape, dtype=ref.dtype, device=ref.device)


def settle(index: int, *arrays: Tensor) -> None:
    """Torch evaluates eagerly: nothing to do."""


def evaluate(*arrays: Tensor) -> None:
    """Torch evaluates eagerly: nothing to do."""


silu = F.silu
sigmoid = torch.sigmoid
tanh = torch.tanh
exp = torch.exp
log = torch.log
sin = torch.sin
sqrt = torch.sqrt


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(x, slope)


def clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def where(condition: Tensor, a: Tensor, b: Tensor | float) -> Tensor:
    return torch.where(condition, a, b)


def multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.addcmul(c, a, b)


def concat(arrays: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat(list(arrays), dim=axis)


def stack(arrays: Sequence[Tensor], axis: int) -> Tensor:
    return torch.stack(list(arrays), dim=axis)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.expand(shape)


def take(x: Tensor, index: np.ndarray | Tensor, axis: int) -> Tensor:
    if not isinstance(index, Tensor):
        index = torch.from_numpy(np.array(index, np.int64)).to(x.device)
    axis = axis % x.ndim
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def flatten_contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def std(x: Tensor) -> float:
    return float(x.float().std())


def amin(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.amin(x, dim=axes, keepdim=True)


def amax(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.amax(x, dim=axes, keepdim=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch_fused.serves_linear(x, weight, bias):
        return torch_fused.linear(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch_fused.serves_linear(x, weight, bias):
        return torch_fused.linear(x, weight, bias, gelu=True)
    return composed.linear_gelu(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if torch_fused.serves(x, weight):
        return torch_fused.rms_norm(x, weight, eps)
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def norm_modulate(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, silu: bool
) -> Tensor:
    fused = torch_fused.serves(x, scale, shift)
    return (torch_fused if fused else composed).norm_modulate(x, scale, shift, eps, silu)


def norm_rotate(
    x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, split: bool
) -> Tensor:
    if split and torch_fused.serves(x, weight):
        return torch_fused.norm_rotate(x, weight, eps, cos, sin)
    return composed.norm_rotate(x, weight, eps, cos, sin, split)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=eps)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    # The channels-last kernel sums squares in one run: 1e-5 off on a video, 0.1 off far from zero.
    first = x.movedim(-1, 1).contiguous()
    return F.group_norm(first, groups, weight, bias, eps).movedim(1, -1)


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: list[tuple[int, int]],
    modes: list[str],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution over the axes between batch and channels; weight (out, in / groups, *kernel)."""
    native, rest = native_padding(pads, modes)
    fits = padded_size(x.shape, pads, weight.shape[0]) <= SAFE_ELEMENTS
    if not fits:
        native, rest = (0,) * len(pads), pads
    x = pad(x, [(0, 0), *rest, (0, 0)], ["zeros", *modes, "zeros"])

    def run(piece: Tensor) -> Tensor:
        first = piece.movedim(-1, 1)
        convolve = _CONVOLUTIONS[len(pads)]
        y = convolve(first, weight, bias, tuple(stride), native, tuple(dilation), groups)
        return y.movedim(1, -1)

    if fits:
        return run(x)
    kernel = weight.shape[2:]
    return split_convolution(x, run, kernel, stride, dilation, weight.shape[0], SAFE_ELEMENTS)


def norm_silu_conv3d(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    pads: list[tuple[int, int]],
    modes: list[str],
) -> Tensor:
    if not torch_fused.serves(x, scale, shift, weight, bias):
        return composed.norm_silu_conv3d(x, scale, shift, eps, weight, bias, pads, modes)
    widths = [(0, 0), *pads, (0, 0)]
    x = torch_fused.norm_silu_padded(x, scale, shift, eps, widths, ["zeros", *modes, "zeros"])
    return conv(x, weight, bias, (1, 1, 1), [(0, 0)] * 3, ["zeros"] * 3, (1, 1, 1), 1)


def conv_transpose1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    first = x.movedim(-1, 1)
    y = F.conv_transpose1d(first, weight, bias, stride, padding, groups=groups)
    return y.movedim(1, -1)


# --- device ---------------------------------------------------------------------------------

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TorchBackend:
    """Device, dtypes and loading for PyTorch. `device`: auto, cpu, cuda, cuda:N or mps.

    `attention`: auto, sdpa, chunked, flash or sage; `neighbourhood` (the diffusion decoder's
    attention): plain or natten. `compile`: off, blocks or graphs. Raises UserError for an absent
    device, kernel or compiler.
    """

    device: str = "auto"
    attention: str = "auto"
    neighbourhood: str = "plain"
    compile: str = "off"
    name: str = "torch"

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device)
        choose_attention(self.attention)
        choose_neighbourhood(self.neighbourhood)
        check_compile(self.compile, self.kind, self.attention)
        # float32 means float32: TF32 would cost three digits.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    @property
    def kind(self) -> str:
        """cpu, cuda or mps."""
        return self.device.partition(":")[0]

    @property
    def fast_bf16(self) -> bool:
        """Whether bfloat16 matrix products are faster than float32 ones on this device."""
        if self.kind == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        if self.kind == "mps":
            return torch.backends.mps.is_macos_or_newer(14, 0)
        return cpu_has_bf16()

    def array(self, host: np.ndarray, dtype: str = "fp32") -> Tensor:
        """A host array on the device: floats in `dtype`, integers and booleans as they are."""
        x = torch.from_numpy(np.array(host, order="C"))
        return x.to(self.device, DTYPES[dtype] if x.is_floating_point() else None)

    def numpy(self, x: Tensor) -> np.ndarray:
        return to_numpy(x)

    def open(self, path: str) -> TensorFile:
        return TensorFile(str(path))

    def from_bytes(self, raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Tensor:
        """Stored bytes as a host tensor of a safetensors `dtype`; it shares the memory."""
        return torch.from_numpy(raw).view(STORED[dtype]).reshape(shape)

    def place(self, x: Tensor, dtype: str, kind: str = "plain") -> Tensor:
        """A stored tensor in `dtype` on the device; convolution kernels get their memory layout."""
        if self.kind == "cuda":  # as it is stored, for fewer bytes; only pinned ones do not wait
            x = x.to(self.device, non_blocking=True)
        x = x.to(self.device, DTYPES[dtype])
        if kind == "conv" and x.ndim >= 4:
            layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
            x = x.contiguous(memory_format=layout)
        return x

    def place_codes(self, x: Tensor) -> Tensor:
        """Stored codes of a quantised weight on the device: float8, else bytes."""
        packed = x.dtype == torch.uint32 or self.kind == "mps"
        codes = x.view(torch.uint8) if packed else x
        return codes.to(self.device, non_blocking=self.kind == "cuda")

    @property
    def has_fp8_products(self) -> bool:
        """Whether the device multiplies float8 matrices itself."""
        return has_fp8_products(self.kind, self.device)

    def decode_fp8(self, x: Tensor) -> Tensor:
        """float8_e4m3 codes as float32 values."""
        return x.float()

    def normal(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Normal draws of the device's own generator (not portable between devices)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device)

    def transfers(self) -> Transfers | None:
        """How streamed weights come to the device beside its work; None: they are there."""
        return Transfers(self.device) if self.kind == "cuda" else None

    def compiled(self, call: Call) -> Call:
        """`call(module, *inputs)` as the option `compile` says."""
        return compiled(call, self.compile)

    def inference(self) -> AbstractContextManager[None]:
        """A context without autograd: activations are not kept."""
        return torch.inference_mode()

    def synchronize(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def free(self) -> None:
        """Return cached memory of the device, or of the host where that is the device."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.kind == "mps":
            torch.mps.empty_cache()
        else:
            release_host_memory()

    def free_bytes(self) -> int:
        """Memory that new arrays can take."""
        if self.kind == "cuda":
            cached = torch.cuda.memory_reserved(self.device)
            unused = cached - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + unused
        if self.kind == "mps":
            limit = torch.mps.recommended_max_memory()
            return max(0, limit - torch.mps.driver_allocated_memory())
        return host_free_bytes()

    def activation_bytes(self, dtype: str) -> int:
        """Bytes that a stack of 3-D convolutions takes per element of its largest activation.

        Measured: up to 7.4 copies are alive at once; on the CPU they are float32 whatever `dtype`.
        """
        return 8 * (4 if self.kind == "cpu" else DTYPES[dtype].itemsize)

    def peak_bytes(self) -> int | None:
        """Peak device memory since `reset_peak`; None on the CPU, where RSS tells."""
        return torch.cuda.max_memory_allocated(self.device) if self.kind == "cuda" else None

    def reset_peak(self) -> None:
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def describe(self) -> dict[str, str | bool]:
        name = torch.cuda.get_device_name(self.device) if self.kind == "cuda" else self.device
        return {
            "backend": "torch",
            "version": torch.__version__,
            "device": self.device,
            "device_name": name,
            "fast_bf16": self.fast_bf16,
            "attention": self.attention,
            "neighbourhood": self.neighbourhood,
            "compile": self.compile,
        }
