"""What each way of holding weights in few bits costs the pocket model, and the bytes it takes.

Every mode makes the same clips from the same noise: the distance of its latents and the PSNR of
its frames from the float32 run, and the share of what the prompts say that the clips show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench_memory import make_backend
from paired.report import show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pocket_oracle import read_clip

from ltx2.app.compose import compose
from ltx2.experiment.run import component_dtypes
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.latents import Latents
from ltx2.pipelines.plan import StagePlan
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.quantisation import block_quantisation, text_quantisation
from ltx2.pipelines.resident import module_bytes
from ltx2.pipelines.runner import Runner

PROMPTS = {
    "a red circle moves right on a teal background with a high tone": "red teal right high",
    "a blue square moves left on a white background with a low tone": "blue white left low",
    "a yellow triangle moving up, black background, middle tone": "yellow black up middle",
    "a green circle moving down, gray background, high tone": "green gray down high",
}
FP32, BF16, PRODUCTS = "float32", "bfloat16", "fp8 products"
MODES: dict[str, list[str]] = {
    FP32: [],
    BF16: ["dtype.transformer=bf16"],
    "fp8": ["quant=fp8"],
    PRODUCTS: ["quant=fp8", "quant.fp8_matmul=true"],
    "fp8-cast": ["quant=fp8_cast"],
    "mxfp8": ["quant=mxfp8"],
    "int8, groups of 32": ["quant=int8", "quant.group_size=32"],
    "int8, groups of 64": ["quant=int8"],
    "int4, groups of 32": ["quant.blocks=int4", "quant.group_size=32"],
    "int4, groups of 64": ["quant.blocks=int4"],
    "text fp8": ["quant.text=fp8"],
    "text int8, groups of 32": ["quant.text=int8", "quant.group_size=32"],
    "text int4, groups of 32": ["quant.text=int4", "quant.group_size=32"],
}


class Held:
    """Keeps a clip as it is decoded."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.sound: tuple[np.ndarray, int] = (np.zeros((2, 1)), 1)

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self.sound = waveform, rate

    def frames(self, chunk: np.ndarray) -> None:
        self.chunks.append(np.array(chunk, np.float32))

    @property
    def clip(self) -> np.ndarray:
        """Frames (F, H, W, 3) in [0, 1]."""
        return np.concatenate(self.chunks)


class Watched(Runner):
    """Remembers the latents of the last sampling stage."""

    final: tuple[np.ndarray, ...] = ()

    def _sample(self, stage: StagePlan) -> None:
        super()._sample(stage)
        made: Latents = self.latents[stage.name]
        self.final = tuple(self.backend.numpy(x) for x in (made.video, made.audio))


def generate(backend: Any, prompt: str, given: list[str]) -> tuple[tuple[np.ndarray, ...], Held]:
    settings = compose(["pipeline=one_stage", f"prompt='{prompt}'", "dtype=fp32", *given])
    plan, held = make_plan(settings), Held()
    runner = Watched(plan, backend, component_dtypes(settings, backend))
    runner.run(held)
    return runner.final, held


def weights(backend: Any, given: list[str]) -> tuple[int, int]:
    """Bytes of the transformer and of the text encoder in memory."""
    settings = compose(["pipeline=one_stage", "dtype=fp32", *given])
    plan, dtypes = make_plan(settings), component_dtypes(settings, backend)
    header, how = plan.headers["checkpoint"], block_quantisation(settings)
    transformer = load_transformer(header, backend, dtypes["transformer"], quantisation=how)
    gemma = read_gemma(plan.files["text_encoder"])
    tower = load_gemma(gemma, backend, dtypes["text_encoder"], text_quantisation(settings))
    return module_bytes(transformer), module_bytes(tower)


def adherence(held: Held, expected: str) -> int:
    """How many of colour, background, direction and tone are as the prompt says."""
    seen = read_clip(np.round(held.clip * 255).astype(np.uint8), *held.sound)
    shown = (seen.colour, seen.background, seen.direction, seen.tone)
    return sum(a == b for a, b in zip(shown, expected.split(), strict=True))


def measure(backend: Any, name: str, exact: list[Any], prompts: dict[str, str]) -> dict[str, Any]:
    """One row; `exact` are the results of the float32 run, and filled by it."""
    distances, psnrs, right = [], [], 0
    for index, (prompt, expected) in enumerate(prompts.items()):
        latents, held = generate(backend, prompt, MODES[name])
        if name == FP32:
            exact.append((latents, held.clip))
        wanted, clip = exact[index]
        video, audio = (
            float(np.linalg.norm(a - b) / np.linalg.norm(b))
            for a, b in zip(latents, wanted, strict=True)
        )
        distances.append((video, audio))
        error = float(np.square(held.clip - clip).mean())
        psnrs.append(np.inf if error == 0 else -10 * np.log10(error))
        right += adherence(held, expected)
    transformer, text = weights(backend, MODES[name])
    video, audio = np.mean(distances, axis=0)
    return {
        "mode": name,
        "transformer MB": round(transformer / 1e6, 2),
        "text MB": round(text / 1e6, 2),
        "video latents": f"{video:.4f}",
        "audio latents": f"{audio:.4f}",
        "PSNR dB": round(float(np.mean(psnrs)), 1),
        "adherence": f"{right}/{4 * len(prompts)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    backend = make_backend(options.backend, options.device)
    prompts = dict(list(PROMPTS.items())[: options.prompts])
    exact: list[Any] = []
    left_out = {FP32} if backend.has_fp8_products else {FP32, PRODUCTS}
    modes = [FP32, *(name for name in options.modes if name not in left_out)]
    rows = [measure(backend, name, exact, prompts) for name in modes]
    show("quantisation of the pocket model", rows, options.json)


if __name__ == "__main__":
    main()
