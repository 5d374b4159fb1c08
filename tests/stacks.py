"""Stacks of darks with known fixed patterns, in bare NumPy."""

import numpy as np

SHAPE = (240, 320)
SIGMAS = 4.0  # 1 in 16000 by chance


def pattern(rng, *, row=0.0, column=0.0, pixel=0.0, shape=SHAPE):
    """Fixed pattern whose row, column and pixel parts have exactly these standard deviations."""

    def unit(values):
        return (values - values.mean()) / values.std()

    return (
        row * unit(rng.standard_normal((shape[0], 1)))
        + column * unit(rng.standard_normal((1, shape[1])))
        + pixel * unit(rng.standard_normal(shape))
    )


def darks(rng, fixed, *, count=16, sigma=3.0, row_noise=0.0, drift=0.0, level=200.0):
    """Stored darks: fixed pattern, white and row noise, drifting level, quantized."""
    for _ in range(count):
        frame = level + fixed + sigma * rng.standard_normal(fixed.shape) + drift * rng.standard_normal()
        yield np.round(frame + row_noise * rng.standard_normal((fixed.shape[0], 1))).astype(np.uint16)
