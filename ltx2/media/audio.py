"""Sound: files <-> float32 waveforms (C, N) in [-1, 1], and sample rate conversion."""

from __future__ import annotations

import math
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np

from ltx2.errors import UserError
from ltx2.media.atomic import replacing
from ltx2.media.opening import opened

_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99
# Opus needs 80 ms before a cold decoder gives the right samples.
_PREROLL_SECONDS = 0.1
# Output rows per matrix product: bounds the copied windows to some tens of MB.
_ROWS_AT_ONCE = 32_768


def read_audio(
    path: str | Path, start_seconds: float = 0.0, duration_seconds: float | None = None
) -> tuple[np.ndarray, int] | None:
    """The window [start, start + duration) of the first audio stream: ((C, N), rate).

    None if the file has no audio stream; fewer samples if it ends early; UserError if the window
    lies beyond the end. Source: audio spec 8.
    """
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds <= 0):
        raise UserError(
            f"audio window start={start_seconds} s, duration={duration_seconds} s is empty; "
            "use start >= 0 and duration > 0"
        )
    end = math.inf if duration_seconds is None else start_seconds + duration_seconds
    pieces: list[np.ndarray] = []
    first, clock = start_seconds, 0.0
    with opened(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if start_seconds > 0:
            container.seek(int(max(0.0, start_seconds - _PREROLL_SECONDS) * 1_000_000))
        for frame in container.decode(stream):
            time = clock if frame.time is None else frame.time
            clock = time + frame.samples / frame.sample_rate
            if time >= end:
                break
            if clock > start_seconds:
                first = first if pieces else time
                pieces.append(_samples(frame))
        rate = stream.rate
    if not pieces:
        raise UserError(f"{path} holds no sound at {start_seconds} s; start earlier")
    waveform = np.concatenate(pieces, axis=1)
    skip = max(0, round((start_seconds - first) * rate))
    stop = None if duration_seconds is None else skip + round(duration_seconds * rate)
    return waveform[:, skip:stop], rate


def _samples(frame) -> np.ndarray:
    """One decoded frame -> float32 (C, n)."""
    channels = len(frame.layout.channels)
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        full_scale = 2.0 ** (8 * values.dtype.itemsize - 1)
        return (values / full_scale).astype(np.float32)
    return values.astype(np.float32)


def pcm16(waveform: np.ndarray) -> np.ndarray:
    """(C, N) float -> int16 (C, N): clipped to [-1, 1], times 32767, truncated."""
    return (np.clip(waveform, -1, 1) * np.float32(32767)).astype(np.int16)


def write_wav(path: str | Path, waveform: np.ndarray, rate: int) -> None:
    """Write (C, N) as 16-bit PCM; never half a file."""
    if waveform.ndim != 2 or waveform.size == 0:
        raise UserError(f"waveform of shape {waveform.shape} is not (channels, samples)")
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(waveform).T.astype("<i2").tobytes())


def to_stereo(waveform: np.ndarray) -> np.ndarray:
    """(1, N) -> (2, N) by duplication; (2, N) unchanged. More channels raise UserError."""
    if waveform.shape[0] == 1:
        return np.repeat(waveform, 2, axis=0)
    if waveform.shape[0] != 2:
        raise UserError(
            f"audio has {waveform.shape[0]} channels; mix it down to stereo first "
            "(ffmpeg -i in.wav -ac 2 out.wav)"
        )
    return waveform


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(C, N) at `from_rate` -> float32 (C, ceil(N * to / from)) at `to_rate`.

    Hann-windowed sinc. Source: audio spec 2.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise UserError(f"cannot resample from {from_rate} to {to_rate} Hz; rates are positive")
    waveform = waveform.astype(np.float32)
    if from_rate == to_rate:
        return waveform
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    kernel, reach = _sinc_kernel(old, new)
    channels, count = waveform.shape
    padded = np.pad(waveform, ((0, 0), (reach, reach + old)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=1)[:, ::old]
    steps = windows.shape[1]
    phases = np.empty((channels, steps, new), np.float32)
    for begin in range(0, steps, _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        phases[:, rows] = windows[:, rows] @ kernel
    return phases.reshape(channels, -1)[:, : -(-new * count // old)]


@lru_cache(maxsize=8)
def _sinc_kernel(old: int, new: int) -> tuple[np.ndarray, int]:
    """Kernel (2 * reach + old, new), one column per output phase, and its reach in samples.

    Float32 throughout: a float64 kernel differs from the reference by up to 7e-5.
    """
    base = min(old, new) * _ROLLOFF
    reach = math.ceil(_LOWPASS_WIDTH * old / base)
    tap = np.arange(-reach, reach + old, dtype=np.float32)[:, None] / np.float32(old)
    phase = np.arange(0, -new, -1, dtype=np.float32)[None] / np.float32(new)
    t = np.clip((phase + tap) * np.float32(base), -_LOWPASS_WIDTH, _LOWPASS_WIDTH)
    window = np.cos(t * np.float32(np.pi / _LOWPASS_WIDTH / 2)) ** 2
    kernel = np.sinc(t) * window * np.float32(base / old)
    kernel.setflags(write=False)
    return kernel, reach
