"""A mock sensor in bare NumPy: the independent second opinion that tests measure rawkit against.

    stored = clip(round(black + K Poisson(photoelectrons) + N(0, sigma_r)), 0, white)

It imports nothing of rawkit, so a mistake in rawkit's synthesis cannot cancel one in its calibration.
"""

from __future__ import annotations

import numpy as np


def expose(
    electrons,
    *,
    system_gain,
    read_noise,
    black=512.0,
    white=16383.0,
    rng,
    dsnu=0.0,
    hot=0.0,
):
    """One frame.

    Parameters
    ----------
    electrons : (H, W) expected photoelectrons, PRNU and vignetting included
    system_gain, read_noise : float or (H, W)
        K [DN/e-] and sigma_r [DN] before quantization.
    dsnu : float or (H, W) [DN]
        Fixed offset of each pixel.
    hot : (H, W) [e-] or 0
        Dark electrons of hot pixels.

    Returns
    -------
    (H, W) uint16
    """
    electrons = np.asarray(electrons, np.float64)
    shot = rng.poisson(electrons + hot)
    value = black + dsnu + system_gain * shot + read_noise * rng.standard_normal(electrons.shape)
    return np.clip(np.round(value), 0, white).astype(np.uint16)


def field(shape, *, prnu=0.0, vignetting=0.0, rng):
    """(H, W) relative illumination of a flat: 1 at the center, 1 - vignetting in the corners, PRNU on top."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return (1.0 - vignetting * (x**2 + y**2) / 2.0) * (1.0 + prnu * rng.standard_normal(shape))


def bayer_map(pattern, values, shape):
    """(H, W) array holding ``values`` (R, Gr, Gb, B) on the sites of a Bayer pattern, written out by hand."""
    order = {"RGGB": (0, 1, 2, 3), "BGGR": (3, 2, 1, 0), "GRBG": (1, 0, 3, 2), "GBRG": (2, 3, 0, 1)}[pattern]
    tile = np.array([values[i] for i in order], np.float64).reshape(2, 2)
    return np.tile(tile, (shape[0] // 2 + 1, shape[1] // 2 + 1))[: shape[0], : shape[1]]
