"""A clean linear raw from a finished photograph: the inverse of ``rawkit.raw.develop`` up to demosaicing.

    l = exposure * curve^-1(tone^-1(rgb))         linear sRGB light; curve of IEC 61966-2-1, or a power
    w = N l,   N = row-normalized C X             white-balanced camera color, 1 = saturation
    u = clip(w n / max(n), 0, 1)                  divided by the white balance factors max(n) / n
    stored = black + u_color(i, j) (white - black)

C is the XYZ-to-camera matrix, X linear sRGB to XYZ, n the camera color of neutral; a monochrome sensor records the
luminance, row Y of X l.  With ``highlights`` the factors g = exposure n / max(n) go to 1 where the photograph is white,
so that what was clipped saturates all colors, as it did in the camera:

    g' = max(m + (1 - m) g, g),   m = (max(mean(w) - 0.9, 0) / 0.1)^2                    (Brooks et al. 2019)

What a photograph has lost (clipped highlights, its own tone curve, compression) stays lost: the result is plausible
raw, not measured raw.  ``reduce`` averages k x k pixels in linear light first: the picture's own noise falls by k.

Matrix, neutral and exposure come from the camera that is imitated (a DNG's ColorMatrix and AsShotNeutral), or are drawn
from stated ranges (``ColorRanges``); ``BROOKS_2019`` holds the published ones.

References
----------
Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019: tone curve, ranges, highlights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rawkit.raw.develop import XYZ_FROM_SRGB, srgb_from_camera
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage, pack, pad_to_period, unpack

_D65 = 21  # EXIF light source
_WHITE_FROM, _WHITE_RANGE = 0.9, 0.1  # Brooks et al. 2019: above 0.9 a pixel turns into a clipped one
_SMALLEST_LIGHT = 1e-8  # Brooks et al. 2019: a power of less has no finite slope

#: XYZ (D65) to camera of a typical sensor: one of the four matrices Brooks et al. (2019) publish.
TYPICAL_MATRIX = ((0.838, -0.263, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438))
#: Camera color of neutral in daylight: inverse of the middle of the white balance gains they draw (2.15, 1, 1.7).
TYPICAL_NEUTRAL = (1 / 2.15, 1.0, 1 / 1.7)

#: Color of a simulated camera of which only the noise is known: sRGB's primaries, green twice as sensitive as red.
PLAIN_MATRIX = np.linalg.inv(XYZ_FROM_SRGB)
PLAIN_NEUTRAL = (0.5, 1.0, 0.65)


@dataclass(frozen=True, eq=False)
class CameraColor:
    """How one simulated exposure turns light into camera color.

    Parameters
    ----------
    color_matrix : (3, 3)
        XYZ to camera for D65.
    as_shot_neutral : (r, g, b)
    exposure : float
        Times the light.
    """

    color_matrix: NDArray[np.float64]
    as_shot_neutral: tuple[float, float, float]
    exposure: float = 1.0


@dataclass(frozen=True)
class ColorRanges:
    """Ranges that cameras and exposures are drawn from.

    Parameters
    ----------
    matrices : tuple of (3, 3)
        XYZ to camera; a random mixture of them is taken.
    red_gain, blue_gain : (low, high)
        White balance gains relative to green, uniform.
    exposure : (mean, standard deviation)
        Gaussian.  Draws at or below 0 are drawn again.
    tone_curve, gamma, highlights
        As for ``photograph_to_raw``.
    """

    matrices: tuple[tuple[tuple[float, ...], ...], ...]
    red_gain: tuple[float, float]
    blue_gain: tuple[float, float]
    exposure: tuple[float, float]
    tone_curve: bool = False
    gamma: float | None = None
    highlights: bool = False

    @property
    def curves(self) -> dict[str, Any]:
        """Options of ``photograph_to_raw``."""
        return {"tone_curve": self.tone_curve, "gamma": self.gamma, "highlights": self.highlights}

    def draw(self, rng: np.random.Generator) -> CameraColor:
        """One camera and exposure."""
        weights = rng.uniform(size=len(self.matrices))
        matrix = np.tensordot(weights / weights.sum(), np.array(self.matrices, np.float64), axes=1)
        neutral = (1.0 / rng.uniform(*self.red_gain), 1.0, 1.0 / rng.uniform(*self.blue_gain))
        exposure = 0.0
        while exposure <= 0:
            exposure = float(rng.normal(*self.exposure))
        return CameraColor(matrix, neutral, exposure)


#: Published ranges (facts from Brooks et al. 2019); their brightness gain is 1 / N(0.8, 0.1), our exposure its inverse.
BROOKS_2019 = ColorRanges(
    matrices=(
        ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
        ((0.4913, -0.0541, -0.0202), (-0.613, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
        TYPICAL_MATRIX,
        ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.097, 0.1581, 0.5181)),
    ),
    red_gain=(1.9, 2.4),
    blue_gain=(1.5, 1.9),
    exposure=(0.8, 0.1),
    tone_curve=True,
    gamma=2.2,
    highlights=True,
)


def linear_from_srgb(encoded: ArrayLike) -> NDArray[np.float32]:
    """Linear light of sRGB values in [0, 1]; the inverse of ``rawkit.raw.develop.srgb_curve``.

    Examples
    --------
    >>> [round(float(v), 4) for v in linear_from_srgb([0.0, 0.4614, 1.0])]
    [0.0, 0.18, 1.0]
    """
    v = np.asarray(encoded, np.float32)
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.04045) + 0.055) / 1.055) ** 2.4).astype(np.float32)


def smoothstep(x: ArrayLike) -> NDArray[np.float64]:
    """The global tone curve 3 x^2 - 2 x^3 of [0, 1] (Brooks et al. 2019); inverse: ``inverse_smoothstep``."""
    v = np.asarray(x, np.float64)
    return v * v * (3.0 - 2.0 * v)


def inverse_smoothstep(y: ArrayLike) -> NDArray[np.float64]:
    """x with 3 x^2 - 2 x^3 = y in [0, 1]: x = 1/2 - sin(asin(1 - 2 y) / 3).

    Examples
    --------
    >>> float(inverse_smoothstep(smoothstep(0.3)).round(12))
    0.3
    """
    return 0.5 - np.sin(np.arcsin(1.0 - 2.0 * np.clip(np.asarray(y, np.float64), 0.0, 1.0)) / 3.0)


def reduce_picture(light: NDArray, factor: int) -> NDArray:
    """(H, W, C) linear light averaged over factor x factor pixels; rows and columns that do not fill a block go."""
    if factor < 1 or min(light.shape[:2]) < factor:
        raise ValueError(f"reduce is {factor}, the picture {light.shape[:2]}; take a whole number from 1 to its size.")
    height, width = (size // factor for size in light.shape[:2])
    blocks = light[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3), dtype=light.dtype)


def reduce_raw(raw: RawImage, factor: int) -> RawImage:
    """A raw averaged over factor x factor pixels of each CFA plane: less noise, fewer pixels, the same CFA.

    Parameters
    ----------
    raw : RawImage
    factor : int

    Returns
    -------
    RawImage with a float32 raster of the active area.
    """
    signal, black = raw.signal(), BlackLevel.per_phase(raw.black_level, raw.cfa)
    planes = np.moveaxis(pack(pad_to_period(signal, raw.cfa), raw.cfa), 0, 2)
    small = unpack(np.moveaxis(reduce_picture(planes, factor), 2, 0), raw.cfa)
    return replace(raw, raster=black.add(small), black=black, active_area=None)


def photograph_to_raw(
    rgb: NDArray,
    *,
    cfa: CFA,
    white_level: float,
    black: float,
    as_shot_neutral: Sequence[float] = PLAIN_NEUTRAL,
    color_matrix: ArrayLike = PLAIN_MATRIX,
    exposure: float = 1.0,
    highlights: bool = False,
    tone_curve: bool = False,
    gamma: float | None = None,
    reduce: int = 1,
) -> RawImage:
    """Clean mosaic of a photograph as the described camera would expect it, without noise.

    Parameters
    ----------
    rgb : (H, W, 3) uint8, or float in [0, 1]
        sRGB.
    cfa : CFA
        Any; a monochrome sensor records luminance.
    white_level : float [DN]
    black : float [DN] or BlackLevel
    as_shot_neutral : (r, g, b), > 0
        Camera color of neutral (DNG AsShotNeutral).
    color_matrix : (3, 3)
        XYZ to camera for D65 (DNG ColorMatrix).
        This and the neutral default to typical values: a photograph does not say which camera to imitate.
    exposure : float, > 0
        Multiplies the light; 0.25 is two stops darker.
    highlights : bool
        Let the photograph's white saturate all colors whatever the exposure.
    tone_curve : bool
        Undo the tone curve 3 x^2 - 2 x^3 first.
    gamma : float or None
        Undo a power curve instead of sRGB's; Brooks et al. take 2.2.
    reduce : int
        Average this many pixels each way.

    Returns
    -------
    RawImage with a float32 raster, black included, and the metadata needed to develop it.

    Examples
    --------
    >>> gray = np.full((4, 4, 3), 188, np.uint8)
    >>> raw = photograph_to_raw(gray, cfa=CFA.bayer("RGGB"), white_level=1023, black=64,
    ...                         as_shot_neutral=(0.5, 1.0, 0.6), color_matrix=np.eye(3))
    >>> raw.signal()[:2, :2].round().tolist()
    [[241.0, 482.0], [482.0, 289.0]]
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"the photograph is {rgb.shape}; (H, W, 3) sRGB is needed.")
    if rgb.dtype != np.uint8 and not np.issubdtype(rgb.dtype, np.floating):
        raise TypeError(f"the photograph is {rgb.dtype}; uint8, or float in [0, 1], is needed.")
    neutral = np.asarray(as_shot_neutral, np.float64)
    if neutral.shape != (3,) or not np.all(neutral > 0):
        raise ValueError(f"as_shot_neutral must be three positive numbers, found {as_shot_neutral}.")
    if not exposure > 0:
        raise ValueError(f"exposure is {exposure}; a positive factor is needed.")

    metadata = Metadata(
        as_shot_neutral=tuple(float(n) for n in neutral),
        color_matrices=((_D65, np.asarray(color_matrix, np.float64)),),
    )
    encoded = rgb / np.float32(255) if rgb.dtype == np.uint8 else rgb
    if tone_curve:
        encoded = inverse_smoothstep(encoded)
    light = linear_from_srgb(encoded) if gamma is None else np.maximum(encoded, _SMALLEST_LIGHT) ** gamma
    light = reduce_picture(np.asarray(light, np.float32), reduce)
    gains = np.float32(exposure) * (neutral / neutral.max()).astype(np.float32)
    if cfa.shape == (1, 1):
        colors, gains, letters = (
            (light @ XYZ_FROM_SRGB[1:2].T.astype(np.float32)),
            np.full(1, exposure, np.float32),
            "Y",
        )
    else:
        colors, letters = light @ np.linalg.inv(srgb_from_camera(metadata)).T.astype(np.float32), "RGB"
    camera = colors * (_safe_gains(colors, gains) if highlights else gains)

    mosaic = np.empty(camera.shape[:2], np.float32)
    rows, cols = cfa.shape
    for site, letter in enumerate(cfa.pattern):
        here = (slice(site // cols, None, rows), slice(site % cols, None, cols))
        mosaic[here] = camera[(*here, letters.index(letter))]
    level = black if isinstance(black, BlackLevel) else BlackLevel.constant(black)
    span = np.asarray(white_level - level.add(np.zeros_like(mosaic)), np.float32)
    return RawImage(
        raster=level.add(np.clip(mosaic, 0, 1) * span),
        cfa=cfa,
        black=level,
        white_level=white_level,
        metadata=metadata,
    )


def _safe_gains(colors: NDArray[np.float32], gains: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gains that go to 1 where the picture is white (formula in the module's head)."""
    gray = colors.mean(axis=2, keepdims=True)
    mask = (np.maximum(gray - np.float32(_WHITE_FROM), 0) / np.float32(_WHITE_RANGE)) ** 2
    return np.maximum(mask + (1 - mask) * gains, gains)
