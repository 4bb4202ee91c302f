"""Noise drawn on the host: our generator, which gives what torch's gives, against torch's own."""

from __future__ import annotations

import argparse

import torch
from paired.report import show
from paired.timing import alternate, ratio

from ltx2.diffusion.noise import TorchNoise

# Latents (B, T, C) of the built-in model, and of 121 frames at 512 x 768 and 1024 x 1536.
SHAPES = ((1, 320, 64), (1, 6144, 128), (1, 24576, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        ours, theirs = TorchNoise(0), torch.Generator().manual_seed(0)
        times = alternate(
            {
                "ours": lambda ours=ours, shape=shape: ours.normal(shape),
                "torch": lambda theirs=theirs, shape=shape: torch.randn(shape, generator=theirs),
            },
            options.repeats,
        )
        record = {name: round(1e3 * t.record()["CPU s"], 2) for name, t in times.items()}
        rows.append(
            {"shape": "x".join(map(str, shape))}
            | {f"{name} ms": value for name, value in record.items()}
            | {"ratio": round(ratio(times["ours"], times["torch"]), 2)}
        )
    show("noise from the host, CPU milliseconds", rows, options.json)


if __name__ == "__main__":
    main()
