"""Light beyond white: colour spaces of EXR files, the model's working codes, and HLG signals.

The model sees HDR pictures as ACEScct codes in [0, 1] of AP1 primaries. Linear light is 1 at
diffuse white and has no upper end. Arrays are (..., 3), float32 outside, float64 inside where a
curve is steep. Source: pipelines spec 3.3.
"""

from __future__ import annotations

import numpy as np

# What the numbers of an EXR file are: linear Rec.709 or AP1 light, or ACEScct codes.
SPACES = ("srgb_linear", "acescg", "acescct")

_AP1_TO_709 = np.array(
    [[1.70505, -0.62179, -0.08326], [-0.13026, 1.1408, -0.01055], [-0.024, -0.12897, 1.15297]]
)
_709_TO_AP1 = np.linalg.inv(_AP1_TO_709)
_709_TO_2020 = np.array(
    [
        [0.62740389, 0.32928304, 0.04331307],
        [0.06909729, 0.9195404, 0.01136232],
        [0.01639144, 0.08801331, 0.89559525],
    ]
)
_2020_TO_709 = np.linalg.inv(_709_TO_2020)

_CCT_SLOPE, _CCT_OFFSET = 10.5402377416545, 0.0729055341958355
_CCT_BREAK, _CCT_CODE_BREAK = 0.0078125, 0.155251141552511

# BT.2100 hybrid log-gamma. Diffuse white lies at this signal.
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_WHITE = 0.75
# BT.2020 non-constant luminance; 10 bits, limited range.
_LUMA_2020 = np.array([0.2627, 0.678, 0.0593])
_CB_2020, _CR_2020 = 1.8814, 1.4746
_LUMA_SPAN, _LUMA_BLACK, _CHROMA_SPAN, _CHROMA_MIDDLE = 876, 64, 896, 512
_WHITEST = 1023


def acescct(linear: np.ndarray) -> np.ndarray:
    """Linear light -> codes in [0, 1]; what is darker or brighter is clamped."""
    x = np.asarray(linear, np.float64)
    log = (np.log2(np.maximum(x, _CCT_BREAK)) + 9.72) / 17.52
    return np.clip(np.where(x > _CCT_BREAK, log, _CCT_SLOPE * x + _CCT_OFFSET), 0, 1)


def linear_of(codes: np.ndarray) -> np.ndarray:
    """ACEScct codes, clamped to [0, 1] -> linear light from 0 on."""
    x = np.clip(np.asarray(codes, np.float64), 0, 1)
    log = np.exp2(x * 17.52 - 9.72)
    return np.where(x > _CCT_CODE_BREAK, log, np.maximum((x - _CCT_OFFSET) / _CCT_SLOPE, 0))


def codes_from(pixels: np.ndarray, space: str) -> np.ndarray:
    """Pixels (..., 3) of an EXR file in `space` -> working codes in [0, 1]."""
    x = np.asarray(pixels, np.float64)
    if space == "acescct":
        return np.clip(x, 0, 1).astype(np.float32)
    linear = x @ _709_TO_AP1.T if space == "srgb_linear" else x
    return acescct(linear).astype(np.float32)


def pixels_in(codes: np.ndarray, space: str) -> np.ndarray:
    """Working codes -> pixels (..., 3) of an EXR file in `space`; the reverse of `codes_from`."""
    if space == "acescct":
        return np.clip(codes, 0, 1).astype(np.float32)
    linear = linear_of(codes)
    if space == "srgb_linear":
        linear = np.maximum(linear @ _AP1_TO_709.T, 0)
    return linear.astype(np.float32)


def shown(codes: np.ndarray) -> np.ndarray:
    """Working codes -> sRGB in [0, 1] for a contact sheet; what is brighter than white is white."""
    x = np.clip(pixels_in(codes, "srgb_linear"), 0, 1)
    return np.where(x > 0.0031308, 1.055 * np.power(x, 1 / 2.4) - 0.055, 12.92 * x)


def hlg_signal(codes: np.ndarray) -> np.ndarray:
    """Working codes -> HLG signal in [0, 1] of BT.2020 primaries; highlights are rolled off."""
    x = np.maximum(np.maximum(linear_of(codes) @ _AP1_TO_709.T, 0) @ _709_TO_2020.T, 0)
    white, steep = _hlg_white()
    soft = 1 - (1 - white) * np.exp(-steep * (np.maximum(x, 1) - 1))
    return _hlg_oetf(np.where(x <= 1, x * white, soft))


def codes_from_hlg(signal: np.ndarray) -> np.ndarray:
    """HLG signal of BT.2020 primaries -> working codes; undoes `hlg_signal`."""
    scene = _hlg_inverse(np.clip(np.asarray(signal, np.float64), 0, 1))
    white, steep = _hlg_white()
    # The roll-off never quite reaches 1: half a step of 10 bits below it is as far as it goes.
    far = np.minimum(scene, 1 - 0.5 / _LUMA_SPAN)
    bright = 1 + np.log((1 - white) / (1 - np.maximum(far, white))) / steep
    linear = np.where(scene <= white, scene / white, bright)
    return acescct(np.maximum(linear @ _2020_TO_709.T, 0) @ _709_TO_AP1.T).astype(np.float32)


def _hlg_white() -> tuple[float, float]:
    """Scene light at diffuse white, and the rate at which what is brighter rolls off."""
    white = float(_hlg_inverse(np.array(_HLG_WHITE)))
    return white, white / (1 - white)


def _hlg_oetf(x: np.ndarray) -> np.ndarray:
    log = _HLG_A * np.log(np.maximum(12 * x - _HLG_B, 1e-9)) + _HLG_C
    return np.where(x <= 1 / 12, np.sqrt(3 * np.clip(x, 0, 1)), log)


def _hlg_inverse(signal: np.ndarray) -> np.ndarray:
    log = (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12
    return np.where(signal <= 0.5, np.square(signal) / 3, log)


def yuv420p10(signal: np.ndarray) -> np.ndarray:
    """R'G'B' of BT.2020 (H, W, 3), even sides -> planes (H * 3/2, W) uint16 of 10 bits.

    Limited range, chroma the mean of 2x2 pixels, rounded to the nearest level.
    """
    height, width, _ = signal.shape
    planes = np.empty((height * 3 // 2, width), np.uint16)
    luma = signal @ _LUMA_2020
    planes[:height] = _levels(luma * _LUMA_SPAN + _LUMA_BLACK)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    for plane, channel, scale in zip(chroma, (2, 0), (_CB_2020, _CR_2020), strict=True):
        difference = (signal[..., channel] - luma) / scale
        quads = difference.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        plane[:] = _levels(quads * _CHROMA_SPAN + _CHROMA_MIDDLE)
    return planes


def rgb_of_levels(luma: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """10-bit levels (H, W) of BT.2020 -> R'G'B' (H, W, 3)."""
    y = (luma - _LUMA_BLACK) / _LUMA_SPAN
    blue = y + _CB_2020 * (cb - _CHROMA_MIDDLE) / _CHROMA_SPAN
    red = y + _CR_2020 * (cr - _CHROMA_MIDDLE) / _CHROMA_SPAN
    green = (y - _LUMA_2020[0] * red - _LUMA_2020[2] * blue) / _LUMA_2020[1]
    return np.stack([red, green, blue], axis=-1)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, _WHITEST).astype(np.uint16)
