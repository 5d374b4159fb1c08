"""What a calibration measures at one ISO beyond system gain and read variance.

Every field is optional: None where it was not measured.  A value is one number, or one per phase in the profile's
order.  Fields ending in ``_se`` are standard errors in the unit of the field they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rawkit.errors import ProfileError

Values = float | tuple[float, ...] | None

UNITS = {
    "row_noise": "DN",
    "column_noise": "DN",
    "tukey_lambda": "1",
    "tukey_scale": "DN",
    "dark_current": "e-/s",
    "dark_temperature": "C",
    "black_offset": "DN",
    "dsnu": "DN",
    "dsnu_row": "DN",
    "dsnu_column": "DN",
    "dsnu_pixel": "DN",
    "prnu": "1",
    "prnu_row": "1",
    "prnu_column": "1",
    "prnu_pixel": "1",
    "dnl": "LSB",
    "full_well": "e-",
    "saturation": "DN",
    "linearity_error": "1",
    "chi2_per_dof": "1",
}

# Lowest and highest plausible value, and the mistake that usually stands behind another.
_PLAUSIBLE = {
    "row_noise": (0.0, 1e4, "a variance instead of a standard deviation"),
    "column_noise": (0.0, 1e4, "a variance instead of a standard deviation"),
    "tukey_lambda": (-2.0, 4.0, "a scale instead of a shape"),
    "tukey_scale": (0.0, 1e4, "a variance instead of a scale"),
    "dark_current": (-1e3, 1e7, "exposure times in milliseconds or nanoseconds instead of seconds"),
    "dark_temperature": (-270.0, 150.0, "kelvins or Fahrenheit instead of Celsius"),
    "dsnu": (0.0, 1e5, "a variance instead of a standard deviation"),
    "prnu": (0.0, 0.5, "percent instead of a fraction"),
    "dnl": (0.0, 2.0, "percent instead of LSB"),
    "full_well": (50.0, 5e7, "DN instead of electrons"),
    "linearity_error": (-0.5, 0.5, "percent instead of a fraction"),
    "chi2_per_dof": (0.0, float("inf"), "a logarithm"),
}


@dataclass(frozen=True)
class IsoDetails:
    """Further findings at one ISO; see the fields' units in ``UNITS``.

    Parameters
    ----------
    row_noise, column_noise : [DN] standard deviation of a row's or column's own offset, temporal
    tukey_lambda, tukey_scale : [1], [DN] shape and scale of the Tukey-lambda law of dark pixels
    dark_current : [e-/s]
    dark_temperature : [C] mean over the darks, which the dark current holds for
    black_offset : [DN] mean of a dark frame minus the file's black level
    dsnu : [DN] standard deviation of dark pixels' fixed offsets, with its parts ``dsnu_row``, ``_column``, ``_pixel``
    prnu : [1] relative standard deviation of pixels' responses, with its parts
    dnl : [LSB] standard deviation of the converter's code widths, from code to code
    full_well : [e-] signal at saturation
    saturation : [DN] stored value at saturation, black included
    linearity_error : [1] largest relative departure from the straight response
    chi2_per_dof : [1] of the photon-transfer fit
    flat_frames, dark_frames : int
        Frames used.
    remarks : tuple of str
    """

    row_noise: Values = None
    row_noise_se: Values = None
    column_noise: Values = None
    column_noise_se: Values = None
    tukey_lambda: Values = None
    tukey_lambda_se: Values = None
    tukey_scale: Values = None
    tukey_scale_se: Values = None
    dark_current: Values = None
    dark_current_se: Values = None
    dark_temperature: float | None = None
    black_offset: Values = None
    black_offset_se: Values = None
    dsnu: Values = None
    dsnu_se: Values = None
    dsnu_row: Values = None
    dsnu_row_se: Values = None
    dsnu_column: Values = None
    dsnu_column_se: Values = None
    dsnu_pixel: Values = None
    dsnu_pixel_se: Values = None
    prnu: Values = None
    prnu_se: Values = None
    prnu_row: Values = None
    prnu_row_se: Values = None
    prnu_column: Values = None
    prnu_column_se: Values = None
    prnu_pixel: Values = None
    prnu_pixel_se: Values = None
    dnl: Values = None
    dnl_se: Values = None
    full_well: Values = None
    full_well_se: Values = None
    saturation: Values = None
    saturation_se: Values = None
    linearity_error: Values = None
    linearity_error_se: Values = None
    chi2_per_dof: Values = None
    flat_frames: int | None = None
    dark_frames: int | None = None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON object of what is there."""
        document: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is None or value == ():
                continue
            if isinstance(value, str | int):
                document[name] = value
            elif name == "remarks":
                document[name] = [str(remark) for remark in value]
            else:
                numbers = np.asarray(value, np.float64)
                document[name] = float(numbers) if numbers.ndim == 0 else [float(v) for v in numbers]
        return document

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> IsoDetails:
        """Inverse of ``to_dict``."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)

    def check(self, *, phases: Sequence[str], white_level: float | None, where: str) -> None:
        """Raise ProfileError where a number is implausible, or does not fit the phases."""
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is None or name in ("remarks", "flat_frames", "dark_frames"):
                continue
            numbers = np.asarray(value, np.float64)
            if numbers.ndim and numbers.size != max(len(phases), 1):
                raise ProfileError(f"{where} lists {numbers.size} {name}, phases {tuple(phases)}.")
            quantity = name.removesuffix("_se")
            whole = quantity.split("_")[0] if quantity.startswith(("dsnu_", "prnu_")) else quantity
            low, high, mistake = _PLAUSIBLE.get(whole, (-np.inf, np.inf, ""))
            if name.endswith("_se"):
                low, high, mistake = 0.0, np.inf, "a variance or a lower limit instead of a standard error"
            if not np.all((numbers >= low) & (numbers <= high)):
                raise ProfileError(
                    f"{where}: {name} {value} {UNITS[quantity]} is outside {low:g} to {high:g}; is it {mistake}?"
                )
            if name == "saturation" and white_level is not None and np.any(numbers > 1.001 * white_level):
                raise ProfileError(
                    f"{where}: saturation {value} DN lies above the white level {white_level:g} DN; which is right?"
                )
