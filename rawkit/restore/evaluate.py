"""How good a denoiser is: clean pictures, noise of a known camera, figures per ISO.

The task is that of ``rawkit.noise.standard_scene``, with the noise of any camera.  Figures, means over the pictures:

    raw dB     PSNR of the black-subtracted signal, peak = white
    sRGB dB    PSNR after white balance, clipping and the sRGB curve, plane by plane
    SSIM       the same
    ratio      variance of what was removed over the variance of the noise, where nothing is clipped
    lag        correlation of neighboring pixels of what was removed: 0 for noise, more for lost detail
    s/MP       processor seconds per megapixel of mosaic
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawkit.noise.standard_scene import NEUTRAL, SPAN, clean_planes, noisy_planes, psnr
from rawkit.raw.develop import srgb_curve
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile

_BALANCE = (1 / np.array([NEUTRAL[0], NEUTRAL[1], NEUTRAL[1], NEUTRAL[2]]))[:, None, None]

Method = Callable[[NDArray[np.float32], NoiseParams], NDArray[np.float32]]


@dataclass(frozen=True)
class Score:
    """Figures of one method at one ISO (see module)."""

    method: str
    iso: float
    pictures: int
    raw_db: float
    srgb_db: float
    ssim: float
    ratio: float
    lag: float
    seconds_per_megapixel: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def scaled_noise(profile: CameraProfile, iso: float) -> NoiseParams:
    """A camera's noise on the scale of the test pictures: white at 959 DN, the same electrons at white."""
    params = profile.noise.at(iso)
    factor = SPAN / profile.span
    gain, read_var = float(np.mean(params.system_gain)), float(np.mean(params.read_var))
    return NoiseParams(gain * factor, read_var * factor**2)


def evaluate(
    methods: Mapping[str, Method], files: Sequence[Path], noise: Mapping[float, NoiseParams]
) -> Iterator[Score]:
    """Figures of every method at every ISO, all on the same noise.

    Parameters
    ----------
    methods : name -> function (planes [DN], params) -> planes
    files : photographs
    noise : ISO -> parameters on the scale of 959 DN
    """
    for iso, params in noise.items():
        totals = {name: np.zeros(6) for name in methods}
        for path in files:
            clean = clean_planes(path)
            noisy = noisy_planes(clean, params, name=path.name, iso=iso)
            for name, method in methods.items():
                start = time.process_time()
                estimate = method(noisy, params)
                spent = time.process_time() - start
                totals[name] += (*_figures(clean, noisy, estimate, params), spent / (clean.size / 1e6))
        for name, total in totals.items():
            yield Score(name, iso, len(files), *(float(v) for v in total / len(files)))


def _figures(
    clean: NDArray[np.float32], noisy: NDArray[np.float32], estimate: NDArray[np.float32], params: NoiseParams
) -> tuple[float, ...]:
    from skimage.metrics import structural_similarity

    shown = [srgb_curve(np.clip(x / SPAN * _BALANCE, 0, 1)) for x in (clean, estimate)]
    ssim = [structural_similarity(a, b, data_range=1.0) for a, b in zip(*shown, strict=True)]
    removed = (noisy - estimate) / np.sqrt(params.variance(np.maximum(clean, 0)))
    lags = [np.mean(removed[:, 1:] * removed[:, :-1]), np.mean(removed[..., 1:] * removed[..., :-1])]
    variance = float(np.mean(removed**2))
    # of nothing removed there is no correlation to tell
    lag = float(np.mean(lags)) / variance if variance > 0 else 0.0
    return psnr(clean / SPAN, estimate / SPAN), psnr(*shown), float(np.mean(ssim)), variance, lag
