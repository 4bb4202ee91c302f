"""What a run would compute on, told without importing torch, which takes seconds."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ltx2.backends import open_backend
from ltx2.backends.memory import host_free_bytes
from ltx2.errors import UserError, nearest

KINDS = ("cpu", "cuda", "mps")
FIRST_MACOS_WITH_BF16 = 14


@dataclass(frozen=True)
class Machine:
    """A backend's device; `free_bytes` None where only the framework knows.

    Has what `ltx2.weights.dtype_policy` asks of a backend.
    """

    backend: str
    device: str
    kind: str
    fast_bf16: bool
    free_bytes: int | None


def machine(backend: str, device: str, root: Path = Path("/")) -> Machine:
    """The device that `backend` (torch or mlx) will take for `device`, which may be auto.

    For torch it is told from the system: `root` is where `proc` and `dev` are.
    """
    if backend == "mlx":
        made = open_backend("mlx", device=device)
        return Machine("mlx", made.device, made.kind, made.fast_bf16, made.free_bytes())
    device = _torch_device(root) if device == "auto" else device
    kind = device.partition(":")[0]
    if kind not in KINDS:
        hint = nearest(kind, KINDS)
        raise UserError(f"backend.device={device} is unknown{hint}; use auto, {', '.join(KINDS)}")
    if kind == "mps":
        newer = int(platform.mac_ver()[0].partition(".")[0] or 0) >= FIRST_MACOS_WITH_BF16
        return Machine("torch", device, kind, newer, None)
    if kind == "cuda":
        return Machine("torch", device, kind, True, None)
    return Machine("torch", device, kind, _cpu_has_bf16(root), host_free_bytes(root))


def _torch_device(root: Path) -> str:
    try:
        build = version("torch").partition("+")[2]
    except PackageNotFoundError:
        build = "cpu"
    if platform.system() == "Darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    if build.startswith("cpu"):
        return "cpu"
    driver = "dev/kfd" if build.startswith("rocm") else "proc/driver/nvidia/version"
    return "cuda" if (root / driver).exists() else "cpu"


def _cpu_has_bf16(root: Path) -> bool:
    """AVX512-BF16 or AMX, as the torch backend asks."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return "avx512f" in flags and bool(flags & {"avx512_bf16", "amx_tile"})
