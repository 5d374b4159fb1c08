"""A clean linear raw from a finished photograph: the inverse of ``rawkit.raw.develop`` up to demosaicing.

    l = exposure * curve^-1(rgb)                  linear sRGB light; curve of IEC 61966-2-1
    w = N l,   N = row-normalized C X             white-balanced camera color, 1 = saturation
    u = clip(w n / max(n), 0, 1)                  divided by the white balance factors max(n) / n
    stored = black + u_color(i, j) (white - black)

C is the XYZ-to-camera matrix, X linear sRGB to XYZ, n the camera color of neutral.  What a photograph has lost
(clipped highlights, its own tone curve, compression) stays lost: the result is plausible raw, not measured raw.
Pictures averaged 2 x 2 or more in linear light have little noise of their own left.

References
----------
Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019 (the idea; here the target camera's own
matrix and neutral take the place of mixed matrices and random gains).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rawkit.raw.develop import XYZ_FROM_SRGB, srgb_from_camera
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage

_D65 = 21  # EXIF light source

#: XYZ (D65) to camera of a typical sensor: one of the four matrices Brooks et al. (2019) publish.
TYPICAL_MATRIX = ((0.838, -0.263, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438))
#: Camera color of neutral in daylight: inverse of the middle of the white balance gains they draw (2.15, 1, 1.7).
TYPICAL_NEUTRAL = (1 / 2.15, 1.0, 1 / 1.7)

#: Color of a simulated camera of which only the noise is known: sRGB's primaries, green twice as sensitive as red.
PLAIN_MATRIX = np.linalg.inv(XYZ_FROM_SRGB)
PLAIN_NEUTRAL = (0.5, 1.0, 0.65)


def linear_from_srgb(encoded: ArrayLike) -> NDArray[np.float32]:
    """Linear light of sRGB values in [0, 1]; the inverse of ``rawkit.raw.develop.srgb_curve``.

    Examples
    --------
    >>> [round(float(v), 4) for v in linear_from_srgb([0.0, 0.4614, 1.0])]
    [0.0, 0.18, 1.0]
    """
    v = np.asarray(encoded, np.float32)
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.04045) + 0.055) / 1.055) ** 2.4).astype(np.float32)


def photograph_to_raw(
    rgb: NDArray,
    *,
    cfa: CFA,
    white_level: float,
    black: float,
    as_shot_neutral: Sequence[float] = PLAIN_NEUTRAL,
    color_matrix: ArrayLike = PLAIN_MATRIX,
    exposure: float = 1.0,
) -> RawImage:
    """Clean mosaic of a photograph as the described camera would expect it, without noise.

    Parameters
    ----------
    rgb : (H, W, 3) uint8, or float in [0, 1]
        sRGB.
    cfa : CFA
        Bayer or X-Trans.
    white_level : float [DN]
    black : float [DN] or BlackLevel
    as_shot_neutral : (r, g, b), > 0
        Camera color of neutral (DNG AsShotNeutral).
    color_matrix : (3, 3)
        XYZ to camera for D65 (DNG ColorMatrix).
        This and the neutral default to typical values: a photograph does not say which camera to imitate.
    exposure : float, > 0
        Multiplies the light; 0.25 is two stops darker.

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
    if set(cfa.pattern) != set("RGB"):
        raise ValueError(f"a {cfa} sensor records no color; give a Bayer or X-Trans array.")
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
    camera_from_srgb = np.linalg.inv(srgb_from_camera(metadata))
    light = exposure * linear_from_srgb(rgb / np.float32(255) if rgb.dtype == np.uint8 else rgb)
    camera = light @ (camera_from_srgb * (neutral / neutral.max())[:, None]).T.astype(np.float32)

    mosaic = np.empty(rgb.shape[:2], np.float32)
    rows, cols = cfa.shape
    for site, letter in enumerate(cfa.pattern):
        here = (slice(site // cols, None, rows), slice(site % cols, None, cols))
        mosaic[here] = camera[(*here, "RGB".index(letter))]
    level = black if isinstance(black, BlackLevel) else BlackLevel.constant(black)
    span = np.asarray(white_level - level.add(np.zeros_like(mosaic)), np.float32)
    return RawImage(
        raster=level.add(np.clip(mosaic, 0, 1) * span),
        cfa=cfa,
        black=level,
        white_level=white_level,
        metadata=metadata,
    )
