"""Darks of different temperatures: kept apart, never averaged.

Dark current doubles in some 6 C (EMVA 1288 R4.0 Linear, section 7.3), so darks of one ISO are grouped: frames whose
temperatures follow each other within 2 C are one group, for a camera warms while it shoots.  Frames that do not tell
their temperature belong to every group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.frames import SAME_TEMPERATURE, Frame


def of_one_temperature(
    darks: Sequence[Frame], flats: Sequence[Frame]
) -> tuple[tuple[Frame, ...], dict[float, tuple[Frame, ...]]]:
    """Darks of the temperature nearest to the flats' (else of most darks), and the others by mean temperature [C]."""
    known = sorted((frame.temperature, i) for i, frame in enumerate(darks) if frame.temperature is not None)
    groups: list[list[tuple[float, int]]] = []
    for temperature, i in known:
        if groups and temperature - groups[-1][-1][0] <= SAME_TEMPERATURE:
            groups[-1].append((temperature, i))
        else:
            groups.append([(temperature, i)])
    if len(groups) < 2:
        return tuple(darks), {}
    members = {float(np.mean([t for t, _ in group])): {i for _, i in group} for group in groups}
    lit = [frame.temperature for frame in flats if frame.temperature is not None]
    middle = float(np.median(lit)) if lit else None
    main = min(members, key=lambda t: -len(members[t]) if middle is None else abs(t - middle))
    others = {t: tuple(darks[i] for i in sorted(group)) for t, group in members.items() if t != main}
    elsewhere = set().union(*(group for t, group in members.items() if t != main))
    return tuple(frame for i, frame in enumerate(darks) if i not in elsewhere), others


def mean_temperature(frames: Sequence[Frame]) -> float | None:
    """Mean temperature [C] of the frames that tell it."""
    known = [frame.temperature for frame in frames if frame.temperature is not None]
    return float(np.mean(known)) if known else None


def temperature_remarks(
    darks: Sequence[Frame], elsewhere: dict[float, DarkNoise], system_gain: np.ndarray
) -> tuple[str, ...]:
    """In words: a wide range of the darks' temperatures, and the dark current [e-/s] measured at other ones."""
    known = [frame.temperature for frame in darks if frame.temperature is not None]
    remarks = []
    if known and max(known) - min(known) > SAME_TEMPERATURE:
        remarks.append(f"the darks' temperatures run from {min(known):g} to {max(known):g} C; dark current mixes them")
    for temperature, dark in elsewhere.items():
        if dark.drift is not None and dark.drift_se is not None:
            current, error = (float(np.mean(values / system_gain)) for values in (dark.drift, dark.drift_se))
            remarks.append(f"dark current at {temperature:.1f} C: {current:.3g} +- {error:.2g} e-/s")
    return tuple(remarks)
