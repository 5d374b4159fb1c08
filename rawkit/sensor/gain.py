"""Amplification in the four languages people use for it.

    multiple = ISO / base ISO,      dB = 20 log10(multiple),      stops = log2(multiple)

1 stop is 6.0206 dB.  dB is of amplitude (DN per electron), as sensor and machine-vision makers use it.
The relation of ISO to system gain, K = K_base * multiple, is only nominal: cameras switch gain stages and push
digitally, so K per ISO is measured, never computed from here (see ``calibrate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_BASE_ISO = 100.0


def _checked_base(base_iso: float) -> float:
    if not (np.isfinite(base_iso) and base_iso > 0):
        raise ValueError(f"base ISO must be a positive number, found {base_iso}.")
    return base_iso


@dataclass(frozen=True, eq=False)
class Gain:
    """An amplification relative to the base ISO.

    Parameters
    ----------
    multiple : float or array
        Amplification factor, > 0; 1 at the base ISO.
    base_iso : float
        ISO at which the factor is 1.

    Examples
    --------
    >>> g = Gain.from_iso(6400)
    >>> float(g.multiple), round(float(g.db), 2), float(g.stops)
    (64.0, 36.12, 6.0)
    >>> round(float(Gain.from_db(g.db).iso), 6)
    6400.0
    """

    multiple: Any
    base_iso: float = DEFAULT_BASE_ISO

    def __post_init__(self) -> None:
        _checked_base(self.base_iso)
        values = np.asarray(self.multiple, np.float64)
        if not (np.all(np.isfinite(values)) and np.all(values > 0)):
            raise ValueError(f"the amplification must be a positive, finite factor, found {self.multiple}.")

    @classmethod
    def from_iso(cls, iso: Any, *, base_iso: float = DEFAULT_BASE_ISO) -> Gain:
        return cls(np.asarray(iso, np.float64) / _checked_base(base_iso), base_iso)

    @classmethod
    def from_db(cls, db: Any, *, base_iso: float = DEFAULT_BASE_ISO) -> Gain:
        return cls(10.0 ** (np.asarray(db, np.float64) / 20.0), base_iso)

    @classmethod
    def from_stops(cls, stops: Any, *, base_iso: float = DEFAULT_BASE_ISO) -> Gain:
        return cls(2.0 ** np.asarray(stops, np.float64), base_iso)

    @property
    def iso(self) -> Any:
        return np.asarray(self.multiple, np.float64) * self.base_iso

    @property
    def db(self) -> Any:
        return 20.0 * np.log10(self.multiple)

    @property
    def stops(self) -> Any:
        return np.log2(self.multiple)

    def split(self, max_analog_iso: float) -> tuple[Gain, Gain]:
        """Analog part, amplified before the ADC up to ``max_analog_iso``, and digital part, multiplied after it.

        Their multiples multiply to this one.  Digital amplification scales read noise and quantization alike.

        Examples
        --------
        >>> analog, digital = Gain.from_iso(1600).split(400)
        >>> float(analog.multiple), float(digital.multiple)
        (4.0, 4.0)
        """
        limit = Gain.from_iso(max_analog_iso, base_iso=self.base_iso)
        analog = np.minimum(self.multiple, limit.multiple)
        return Gain(analog, self.base_iso), Gain(np.asarray(self.multiple) / analog, self.base_iso)
