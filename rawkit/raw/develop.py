"""A minimal render: from raw numbers to an sRGB picture, for reports and metrics.

    u = x / (white - black)                          signal as a fraction of saturation
    w = min(u max(n) / n, 1)                         white balance by the camera's neutral n, clipped at saturation
    c = demosaic(w)
    rgb = M c,  M = inverse of the row-normalized (C X)
    out = sRGB curve(clip(2^baseline exposure rgb, 0, 1))

C is the XYZ-to-camera matrix whose illuminant is nearest D65, X the linear sRGB-to-XYZ matrix (white D65).
Dividing each row of C X by its sum makes camera white (1, 1, 1) come out as sRGB white.  There is no tone
curve and no local operation, so a difference between two renders is a difference between two raws.

References: IEC 61966-2-1 (sRGB); DNG 1.7.1 specification, chapter 6 (color matrices, AsShotNeutral); H. S. Malvar,
L. He, R. Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images", ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw import opcodes
from rawkit.raw.image import AnyRaw, BlackLevel, LinearImage, Metadata, RawImage

FloatImage = NDArray[np.float32]

# Linear sRGB to CIE XYZ, white D65 (IEC 61966-2-1)
XYZ_FROM_SRGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)

# EXIF light source -> correlated color temperature [K] (EXIF 3.0, tag 37384; CIE 15)
_TEMPERATURE = {
    1: 5500, 2: 4150, 3: 2856, 4: 5500, 9: 5500, 10: 6500, 11: 7500, 12: 6430, 13: 5000, 14: 4150, 15: 3450,
    16: 2925, 17: 2856, 18: 4874, 19: 6774, 20: 5503, 21: 6504, 22: 7504, 23: 5003, 24: 3200,
}  # fmt: skip
_D65_TEMPERATURE = 6504

# Malvar, He and Cutler (2004), figure 2, in eighths
_GREEN = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]], np.float32)
_BESIDE = np.array(
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]], np.float32
)
_ACROSS = np.array(
    [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]], np.float32
)
_EIGHTH = np.float32(1 / 8)

_BAND = 256  # rows colored at a time, to bound memory


def develop(
    image: AnyRaw, *, exposure: float = 1.0, neutral: Sequence[float] | None = None, half: bool = False
) -> NDArray[np.uint8]:
    """Render a raw image.

    Parameters
    ----------
    image : RawImage or LinearImage
        Bayer, X-Trans, monochrome, or linear with 1 or 3 planes.
    exposure : float
        Multiplies the picture, on top of the file's BaselineExposure.
    neutral : (r, g, b) or None
        Camera color of neutral; None takes the recorded one.  Where none is recorded the channels stay as they
        are, which looks green; see ``gray_world``.
    half : bool
        Half the size: one pixel per Bayer period, else means of 2 x 2 pixels.

    Returns
    -------
    (H, W, 3) uint8 sRGB, turned upright by the recorded orientation.

    Raises
    ------
    UnsupportedRawError
        The image has neither 1 nor 3 colors.
    """
    balance = _balance(neutral if neutral is not None else image.metadata.as_shot_neutral)
    camera = _camera_colors(image, balance, half)
    gain = exposure * 2.0 ** (image.metadata.baseline_exposure or 0.0)
    matrix = gain * srgb_from_camera(image.metadata) if camera.shape[2] == 3 else np.full((3, 1), gain)
    return upright(_encode(camera, matrix.astype(np.float32)), image.metadata.orientation)


def render_linear(image: AnyRaw) -> FloatImage:
    """What ``develop`` renders, before its curve: (H, W, 3) linear sRGB, upright, 1 = saturation, not clipped."""
    camera = _camera_colors(image, _balance(image.metadata.as_shot_neutral), half=False)
    gain = np.float32(2.0 ** (image.metadata.baseline_exposure or 0.0))
    if camera.shape[2] == 1:
        return upright(np.repeat(camera * gain, 3, axis=2), image.metadata.orientation)
    matrix = gain * srgb_from_camera(image.metadata).astype(np.float32)
    return upright(camera @ matrix.T, image.metadata.orientation)


def demosaic(image: RawImage) -> LinearImage:
    """The same picture with all three camera colors at every pixel, in the mosaic's DN.

    White-balanced for the interpolation, balanced back after it, never clipped; black is the mean black level.
    Gain maps are applied.  Opcodes that address sites of the mosaic are taken out of the metadata, with a note
    (``opcodes.for_demosaiced``).

    Raises
    ------
    UnsupportedRawError
        A monochrome image has no colors to interpolate; or a gain map is damaged.
    """
    if image.cfa.shape == (1, 1):
        raise UnsupportedRawError("a monochrome image has no color filter array to demosaic.")
    balance = _balance(image.metadata.as_shot_neutral)
    black = float(np.mean(image.black_level))
    signal = opcodes.apply_gain_maps(image.signal(), image.metadata.opcode_lists)
    colors = _interpolate_colors(image, _balanced(signal, image, balance))
    pixels = colors / balance + np.float32(black)
    return LinearImage(
        pixels=pixels,
        black=BlackLevel.constant(black),
        white_level=image.white_level,
        metadata=_demosaiced(image.metadata),
    )


def _demosaiced(metadata: Metadata) -> Metadata:
    lists = opcodes.for_demosaiced(metadata.opcode_lists)
    if lists == metadata.opcode_lists:
        return metadata
    note = "Of the opcodes that act on the mosaic gain maps were applied; others (bad pixels) were left out."
    return replace(metadata, opcode_lists=lists, notes=(*metadata.notes, note))


def gray_world(image: AnyRaw) -> tuple[float, ...]:
    """Mean signal of each color relative to green: the neutral of a scene whose average is gray.

    Returns
    -------
    (r, 1, b), or (1, 1, 1) for one color or where a mean is not positive.
    """
    sums: dict[str, list[float]] = {}
    for plane, phase in zip(image.planes(), image.plane_phases, strict=True):
        sums.setdefault(image.phases[phase][0], []).append(float(plane.mean()))
    means = [float(np.mean(sums[letter])) for letter in "RGB" if letter in sums]
    if len(means) != 3 or min(means) <= 0:
        return (1.0, 1.0, 1.0)
    return (means[0] / means[1], 1.0, means[2] / means[1])


def srgb_from_camera(metadata: Metadata) -> NDArray[np.float64]:
    """(3, 3) matrix from white-balanced camera color to linear sRGB; identity where no matrix is recorded.

    M = N^-1,  N = diag(C X 1)^-1 C X

    Examples
    --------
    >>> m = srgb_from_camera(Metadata(color_matrices=((21, np.linalg.inv(XYZ_FROM_SRGB)),)))
    >>> bool(np.allclose(m, np.eye(3)))
    True
    """
    if not metadata.color_matrices:
        return np.eye(3)
    _, xyz_to_camera = min(metadata.color_matrices, key=lambda entry: _mired_from_d65(entry[0]))
    camera_from_srgb = xyz_to_camera @ XYZ_FROM_SRGB
    white = camera_from_srgb.sum(axis=1, keepdims=True)
    if np.any(white <= 0) or abs(np.linalg.det(camera_from_srgb / white)) < np.finfo(np.float32).eps:
        raise UnsupportedRawError("the recorded color matrix cannot be inverted.")
    return np.linalg.inv(camera_from_srgb / white)


def _mired_from_d65(light_source: int) -> float:
    """Distance of an illuminant from D65 [mired]; an unknown one is farthest."""
    temperature = _TEMPERATURE.get(light_source)
    return float("inf") if temperature is None else abs(1e6 / temperature - 1e6 / _D65_TEMPERATURE)


def _balance(neutral: Sequence[float] | None) -> NDArray[np.float32]:
    """White balance factors max(n) / n >= 1, so that saturated pixels come out white."""
    n = np.ones(3) if neutral is None else np.asarray(neutral, np.float64)
    if n.shape != (3,):
        return np.ones(3, np.float32)
    if not np.all(n > 0):
        raise ValueError(f"the neutral color must be positive, found {tuple(n)}.")
    return (n.max() / n).astype(np.float32)


def _camera_colors(image: AnyRaw, balance: NDArray[np.float32], half: bool) -> FloatImage:
    """(H, W, 3 or 1) white-balanced camera color, 1 = saturation."""
    span = np.float32(image.white_level - np.mean(image.black_level))
    signal = opcodes.apply_gain_maps(image.signal(), image.metadata.opcode_lists)
    signal /= span
    if isinstance(image, LinearImage):
        if signal.shape[2] not in (1, 3):
            raise UnsupportedRawError(f"an image of {signal.shape[2]} colors cannot be rendered; 1 or 3 are needed.")
        if signal.shape[2] == 3:
            signal *= balance
        colors = np.minimum(signal, 1, out=signal)
        return _bin2(colors) if half else colors
    if image.cfa.shape == (1, 1):
        colors = np.minimum(signal, 1)[:, :, None]
        return _bin2(colors) if half else colors
    signal = np.minimum(_balanced(signal, image, balance), 1)
    if half and image.cfa.is_bayer:
        return _superpixels(signal, image)
    colors = _interpolate_colors(image, signal)
    return _bin2(colors) if half else colors


def _balanced(mosaic: FloatImage, image: RawImage, balance: NDArray[np.float32]) -> FloatImage:
    """Multiply every pixel by its color's white balance factor, in place."""
    rows, cols = image.cfa.shape
    for site, letter in enumerate(image.cfa.pattern):
        mosaic[site // cols :: rows, site % cols :: cols] *= balance["RGB".index(letter)]
    return mosaic


def _interpolate_colors(image: RawImage, mosaic: FloatImage) -> FloatImage:
    """(H, W, 3) colors of a white-balanced mosaic."""
    if image.cfa.is_bayer:
        return demosaic_bayer(mosaic, image.cfa.pattern)
    return _interpolate(mosaic, np.array(list(image.cfa.pattern)).reshape(image.cfa.shape))


def _bin2(colors: FloatImage) -> FloatImage:
    """Means of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = colors.shape[0] // 2 * 2, colors.shape[1] // 2 * 2
    even = colors[:height, :width]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / np.float32(4)


def _superpixels(mosaic: FloatImage, image: RawImage) -> FloatImage:
    """One RGB pixel per Bayer period, the two greens averaged; an odd last row or column is dropped."""
    height, width = mosaic.shape[0] // 2 * 2, mosaic.shape[1] // 2 * 2
    red, green_r, green_b, blue = (mosaic[r:height:2, c:width:2] for r, c in image.cfa.sites)
    return np.stack([red, (green_r + green_b) * np.float32(0.5), blue], axis=2).astype(np.float32, copy=False)


def demosaic_bayer(mosaic: FloatImage, pattern: str) -> FloatImage:
    """Gradient-corrected linear interpolation (Malvar, He and Cutler, 2004).

    Parameters
    ----------
    mosaic : (H, W) float32, white-balanced
    pattern : str
        Four letters, relative to the top-left pixel.

    Returns
    -------
    (H, W, 3) float32
    """
    from scipy.ndimage import correlate

    letters = np.array(list(pattern)).reshape(2, 2)
    colors = np.empty((*mosaic.shape, 3), np.float32)
    # Mirroring about the border pixel keeps the parity of rows and columns, hence the colors.
    green = correlate(mosaic, _GREEN * _EIGHTH, mode="mirror")
    beside = correlate(mosaic, _BESIDE * _EIGHTH, mode="mirror")
    above = correlate(mosaic, _BESIDE.T * _EIGHTH, mode="mirror")
    across = correlate(mosaic, _ACROSS * _EIGHTH, mode="mirror")
    for r in range(2):
        for c in range(2):
            site = (slice(r, None, 2), slice(c, None, 2))
            here = letters[r, c]
            for k, wanted in enumerate("RGB"):
                if wanted == here:
                    estimate = mosaic
                elif wanted == "G":
                    estimate = green
                elif here != "G":
                    estimate = across
                else:
                    estimate = beside if wanted in letters[r] else above
                colors[(*site, k)] = estimate[site]
    return colors


def _interpolate(mosaic: FloatImage, letters: NDArray[np.str_]) -> FloatImage:
    """Weighted mean of each color's pixels in a 5 x 5 window: any CFA whose colors are that dense."""
    from scipy.ndimage import correlate1d

    tent = np.array([1, 2, 3, 2, 1], np.float32)
    rows, cols = letters.shape
    down, across = -(-mosaic.shape[0] // rows), -(-mosaic.shape[1] // cols)
    colors = np.empty((*mosaic.shape, 3), np.float32)
    for k, letter in enumerate("RGB"):
        here = np.tile(letters == letter, (down, across))[: mosaic.shape[0], : mosaic.shape[1]]
        total, weight = np.where(here, mosaic, 0).astype(np.float32), here.astype(np.float32)
        for axis in (0, 1):
            total = correlate1d(total, tent, axis, mode="constant")
            weight = correlate1d(weight, tent, axis, mode="constant")
        colors[:, :, k] = np.where(here, mosaic, total / np.maximum(weight, 1))
    return colors


def srgb_curve(linear: NDArray[np.floating]) -> NDArray[np.floating]:
    """sRGB transfer function of linear light in [0, 1] (IEC 61966-2-1).

    Examples
    --------
    >>> [round(float(v), 4) for v in srgb_curve(np.array([0.0, 0.18, 1.0]))]
    [0.0, 0.4614, 1.0]
    """
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def srgb_light(encoded: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inverse of ``srgb_curve``: linear light of encoded values in [0, 1].

    Examples
    --------
    >>> [round(float(v), 4) for v in srgb_light(np.array([0.0, 0.4614, 1.0]))]
    [0.0, 0.18, 1.0]
    """
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0.04045) + 0.055) / 1.055) ** 2.4)


def _encode(camera: FloatImage, matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    steps = np.float32(np.iinfo(np.uint16).max)
    curve = np.rint(255 * srgb_curve(np.arange(int(steps) + 1) / steps)).astype(np.uint8)
    out = np.empty((*camera.shape[:2], 3), np.uint8)
    for top in range(0, camera.shape[0], _BAND):
        linear = camera[top : top + _BAND] @ matrix.T
        np.clip(linear, 0, 1, out=linear)
        out[top : top + _BAND] = curve[np.rint(linear * steps).astype(np.uint16)]
    return out


def upright(picture: NDArray, orientation: int) -> NDArray:
    """Apply an EXIF orientation (EXIF 3.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
