"""Replacement of pixels known to be defective, before denoising.

A defective pixel takes the median of its eight nearest pixels of the same color phase that are not defective
themselves; at the border there are fewer.

Which pixels are defective the camera's profile knows, from its darks and flats.  A dead pixel always counts; a hot or
a random-telegraph one where what it adds is more than the noise that the pixel has anyway at its brightness,
value^2 > K x + v.  In bright light most of them can do no harm, and a pixel that is kept keeps its detail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rawkit.raw.image import RawImage
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile

_RINGS = 3  # rings of neighbors looked at before giving up


def known_defects(image: RawImage, params: NoiseParams, profile: CameraProfile) -> NDArray[np.intp]:
    """Pixels of a picture that the profile of its camera knows to be defective and that matter here (see module).

    Parameters
    ----------
    image : RawImage
    params : NoiseParams
        Of the picture.
    profile : CameraProfile
        Of the picture's camera, on its scale; its map is that of the picture's ISO or of the nearest calibrated one
        in the same gain segment.

    Returns
    -------
    (N, 2) rows and columns; none where the profile has no map

    Raises
    ------
    ValueError
        The map is of another sensor size or crop.
    """
    model = None if image.metadata.iso is None else DarkModel.from_profile(profile, image.metadata.iso)
    if model is None:
        return np.empty((0, 2), np.intp)
    signal = image.signal()
    if model.fixed_pattern.shape != signal.shape:
        raise ValueError(
            f"the defects of {profile.name} are known for {model.fixed_pattern.shape}, the picture has {signal.shape}."
        )
    places = np.stack((model.defects["row"], model.defects["column"]), 1).astype(np.intp)
    rows, columns = places.T
    period = image.cfa.shape
    phase = image.cfa.phase_map[rows % period[0], columns % period[1]]
    per_phase = (np.broadcast_to(np.ravel(p), len(image.phases)) for p in (params.system_gain, params.read_var))
    gain, read_var = (values[phase] for values in per_phase)
    noise_var = gain * np.maximum(signal[rows, columns], 0) + read_var
    harmful = (model.defects["kind"] == "dead") | (model.defects["value"] ** 2 > noise_var)
    return np.unique(places[harmful], axis=0)


def repair(signal: NDArray[np.float32], positions: NDArray, period: tuple[int, int]) -> NDArray[np.float32]:
    """A copy of a mosaic with the pixels at ``positions`` replaced.

    Parameters
    ----------
    signal : (H, W) float32 [DN]
    positions : (N, 2) int
        Rows and columns; those outside the mosaic are an error.
    period : (rows, columns) of the color filter array

    Raises
    ------
    ValueError
        A position outside the mosaic: the map belongs to another sensor size.

    Examples
    --------
    >>> m = np.zeros((6, 6), np.float32); m[2, 2] = 900
    >>> float(repair(m, np.array([[2, 2]]), (2, 2)).max())
    0.0
    """
    positions = np.asarray(positions, np.intp).reshape(-1, 2)
    if positions.size and (positions.min() < 0 or np.any(positions >= signal.shape)):
        raise ValueError(f"the defect map has pixels outside {signal.shape}; it belongs to another sensor or crop.")
    bad = np.zeros(signal.shape, bool)
    bad[tuple(positions.T)] = True
    out = signal.copy()
    for row, column in positions:
        out[row, column] = _around(signal, bad, row, column, period)
    return out


def _around(
    signal: NDArray[np.float32], bad: NDArray[np.bool_], row: int, column: int, period: tuple[int, int]
) -> np.float32:
    for ring in range(1, _RINGS + 1):
        rows = row + period[0] * np.arange(-ring, ring + 1)
        columns = column + period[1] * np.arange(-ring, ring + 1)
        here = np.ix_(
            rows[(rows >= 0) & (rows < signal.shape[0])], columns[(columns >= 0) & (columns < signal.shape[1])]
        )
        good = signal[here][~bad[here]]
        if good.size:
            return np.float32(np.median(good))
    return signal[row, column]
