"""Read noise as a ``DarkModel`` measured it.

    row(i)      the row series of one real frame, rotated by a random distance, its blocks of 96 rows in random order;
                n synthetic frames in succession take the n real ones, in random order
    column(j)   N(0, s_col^2)
    pixel       z = Gaussian field of the measured spectrum, mapped by the measured inverse CDF: Q_phase(Phi(z))
    fixed       the measured pattern, topped up by a frozen Gaussian field for what shrinking took away
    hot         dark current's shot noise: the excess is drawn as electrons
    telegraph   one of two levels per frame, +- the excess standard deviation, where the pixels' law does not explain it
    response    1 + PRNU N(0, 1), frozen; dead pixels as measured
    converter   the measured code edges

"Frozen" fields depend on the unit (which specimen of the camera) and on nothing else, so all frames share them.

Beyond the table's outermost quantiles (p = 1/2050) Q runs on by the fitted Tukey-lambda law, with their value and
slope; as a Gaussian where the calibration found no such law.

Telegraph pixels are found by a variance that Gaussian noise would not show; where the law has heavier tails many of
them are ordinary pixels with a rare event, which the quantiles hold already.  Those stay telegraph pixels whose excess
less than one ordinary pixel of the whole sensor would reach by chance, under the measured law.

Between calibrated ISOs the nearest of the gain segment stands in: temporal noise and the pattern's deviations scale
with the read noise, hot pixels with K.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import ProfileError
from rawkit.noise.kernels import table_knots
from rawkit.noise.read_noise import (
    COLUMN_STREAM,
    FIXED_STREAM,
    RESPONSE_STREAM,
    ROW_BLOCK_STREAM,
    LineNoise,
    ReadNoise,
    gaussian_lines,
)
from rawkit.noise.rng import normal_field, philox
from rawkit.noise.spectral_field import SpectralField
from rawkit.sensor.dark_model import DarkModel, law_values

if TYPE_CHECKING:
    from rawkit.sensor.profile import CameraProfile

ROW_BLOCK = 96  # rows; a multiple of every CFA's period (2 and 6)
_ROW_PERIOD = 12
_SQUARE_BINS = 1 << 14  # of the sum of squares; its tail is wanted down to 1e-8


def has_dark_model(profile: CameraProfile, iso: float | None) -> bool:
    """Does the profile know what darks of this ISO look like?"""
    names = [name for name in profile.maps if name.startswith("dark_model_frames_iso")]
    if not names or iso is None:
        return False
    segment = profile.noise.segment_number(iso)
    return any(profile.noise.segment_number(float(name.rsplit("iso", 1)[1])) == segment for name in names)


@lru_cache(maxsize=4)  # the frozen maps of a sensor are worth keeping, and large
def measured_noise(profile: CameraProfile, iso: float, *, unit: int = 0, prnu: bool = True) -> ReadNoise:
    """The dark part of ``measured`` at an ISO.

    Parameters
    ----------
    profile : CameraProfile
    iso : float
    unit : int
        Specimen of the camera: seed of the frozen fields.
    prnu : bool
        Give the pixels the profile's photo-response nonuniformity; False for clean pictures that have it already.

    Raises
    ------
    ProfileError
        The profile has no dark model in this gain segment.
    """
    model = DarkModel.from_profile(profile, iso)
    if model is None:
        raise ProfileError(
            f"{profile.name} has no dark model in the gain segment of ISO {iso:g}; calibrate from dark frames, or use "
            "mode eld or pg."
        )
    here, there = profile.noise.at(iso), profile.noise.at(model.iso or iso)
    temporal = float(np.sqrt(np.mean(here.read_var) / np.mean(there.read_var)))
    electrons = float(np.mean(here.system_gain) / np.mean(there.system_gain))
    shape = (int(model.fixed_pattern.shape[0]), int(model.fixed_pattern.shape[1]))
    hot, telegraph, dead = (_places(model.defects, kind) for kind in ("hot", "telegraph", "dead"))
    telegraph = _unexplained(telegraph, model)
    fixed = _fixed(model, shape, temporal, unit)
    if electrons != temporal:
        fixed[tuple(hot[0].T)] += (electrons - temporal) * hot[1]
    details = profile.details.get(model.iso or iso)
    nonuniformity = float(np.mean(details.prnu)) if prnu and details is not None and details.prnu is not None else 0.0
    return ReadNoise(
        tables=np.float32(temporal) * _tables(model),
        rows=bootstrap_rows(model.row_series * np.float32(temporal)),
        columns=gaussian_lines(model.column_noise * temporal, COLUMN_STREAM),
        field=SpectralField(model.log_spectrum),
        fixed=fixed,
        response=_response(shape, nonuniformity, unit, *dead),
        hot=(hot[0], hot[1] * np.float32(electrons)),
        telegraph=(telegraph[0], telegraph[1] * np.float32(temporal)),
        code_edges=model.code_edges,
    )


def bootstrap_rows(series: NDArray[np.float32]) -> LineNoise:
    """Row offsets resampled from those of real frames.

    A synthetic frame takes its rows from one real frame, in shuffled blocks that keep their rows' order and CFA phase.
    Of n frames in succession each takes another real one, and of the blocks of a frame each another part of it, in
    orders drawn anew for every n: so offsets of whole frames stay what they are, and the mean level of a series
    scatters no more than that of real ones.

    Parameters
    ----------
    series : (n, H) float32 [DN]
    """
    frames, height = series.shape
    places, blocks = max(height // _ROW_PERIOD, 1), -(-height // ROW_BLOCK)

    def start(block: int, seed: int, frame: int) -> int:
        """First row, in its real frame, of a synthetic frame's block; taller frames than the real start over."""
        turn, number = divmod(block, blocks)
        first = _ROW_PERIOD * (int(philox(0, turn, ROW_BLOCK_STREAM, 0, seed, frame)[0]) * places >> 32)
        return first + ROW_BLOCK * _shuffled(blocks, seed, frame, 2 + turn)[number]

    def draw(seed: int, frame: int, first: int, count: int) -> NDArray[np.float32]:
        source = _shuffled(frames, seed, frame // frames, 1)[frame % frames]
        rows = np.arange(first, first + count)
        of_row = rows // ROW_BLOCK
        starts = {int(block): start(int(block), seed, frame) for block in np.unique(of_row)}
        return series[source, (np.array([starts[int(block)] for block in of_row]) + rows % ROW_BLOCK) % height]

    return draw


@lru_cache(maxsize=64)
def _shuffled(count: int, seed: int, key: int, purpose: int) -> tuple[int, ...]:
    """0 .. count - 1 in an order keyed by (seed, key, purpose)."""
    words = [int(philox(0, number, ROW_BLOCK_STREAM, purpose, seed, key)[0]) for number in range(count)]
    return tuple(sorted(range(count), key=words.__getitem__))


def _tables(model: DarkModel) -> NDArray[np.float32]:
    """(phases, TABLE_SIZE) values of the pixels' law over z."""
    knots = table_knots()
    laws = [law_values(values, knots, tail_shape=model.tail_shape) for values in model.pixel_quantiles]
    return np.asarray(laws, np.float32)


def _places(defects: NDArray, kind: str) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    chosen = defects[defects["kind"] == kind]
    return np.stack([chosen["row"], chosen["column"]], axis=1).astype(np.intp), chosen["value"].astype(np.float32)


def _unexplained(
    telegraph: tuple[NDArray[np.intp], NDArray[np.float32]], model: DarkModel
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Those whose excess variance an ordinary pixel would not reach: frames - 1 squared draws of the law, added."""
    from scipy.special import ndtr
    from scipy.stats import chi2

    dof = model.frames - 1
    if not len(telegraph[1]) or dof < 1:
        return telegraph
    z = table_knots()
    square = _tables(model).astype(np.float64).ravel() ** 2
    weight = np.tile(np.diff(ndtr(np.append(z, z[-1] + z[1] - z[0]) - (z[1] - z[0]) / 2)), len(model.pixel_quantiles))
    mean = float(square @ weight / weight.sum())
    top = max(square.max(), 2 * float(telegraph[1].max()) ** 2 * dof, 4 * dof * mean)
    bins = np.linspace(0.0, top, _SQUARE_BINS)
    one = np.bincount(np.rint(square / bins[1]).astype(np.intp), weight / weight.sum(), _SQUARE_BINS)
    size = 4 * _SQUARE_BINS  # sums that leave the range do not come back into it
    total = np.maximum(np.fft.irfft(np.fft.rfft(one, size) ** dof, size)[:_SQUARE_BINS], 0.0)
    beyond = np.cumsum(total[::-1])[::-1] + max(1.0 - total.sum(), 0.0)
    # find_defects compares with the median pixel, as if the law were Gaussian.
    typical = bins[int(np.searchsorted(np.cumsum(total), 0.5))] / float(chi2.median(dof))
    sums = dof * (typical + telegraph[1].astype(np.float64) ** 2)
    chance = np.interp(sums, bins, beyond)
    real = chance * model.fixed_pattern.size < 1.0
    return telegraph[0][real], telegraph[1][real]


def _fixed(model: DarkModel, shape: tuple[int, int], factor: float, unit: int) -> NDArray[np.float32]:
    fixed = model.fixed_pattern.astype(np.float32)
    if factor != 1.0:
        middle = np.float32(np.median(fixed))
        fixed = middle + np.float32(factor) * (fixed - middle)
    if model.fixed_residue > 0:
        fixed = fixed + np.float32(model.fixed_residue * factor) * normal_field(shape, seed=unit, stream=FIXED_STREAM)
    return fixed


def _response(
    shape: tuple[int, int], prnu: float, unit: int, dead: NDArray[np.intp], response: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    if prnu == 0 and not len(dead):
        return None
    field = np.ones(shape, np.float32)
    if prnu > 0:
        field = np.maximum(field + np.float32(prnu) * normal_field(shape, seed=unit, stream=RESPONSE_STREAM), 0)
    field[tuple(dead.T)] = np.maximum(response, 0)
    return field
