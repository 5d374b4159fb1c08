"""Laws of a camera's noise over ISO, inside one gain segment.

In one gain segment (one analog circuit, only its amplification changes)

    K(ISO) = c0 + c1 ISO                     system gain [DN/e-]
    v(ISO) = a + b ISO^2,   a, b >= 0        read variance [DN^2]: noise after and before the amplifier, in quadrature

so read noise in electrons, sigma/K, falls with ISO, and read noise in DN never does.  Where the log-linear law
ln y = p0 + p1 ln ISO leaves a smaller residual it replaces the above.  The table of measured ISOs comes first; laws
only answer beyond it (``rawkit.sensor.profile``).  Where segments begin is found by ``iso_structure``.

References: K. Wei et al., CVPR 2020, and H. Feng et al., ACM MM 2022, for tables of this kind; the quadrature law is
that of two noise sources around an amplifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Family = Literal["affine", "quadratic", "power"]

LAW_ENTRIES = 3  # a two-parameter law needs one more to leave a residual
_ASKED_BELOW = 4.0  # two stops under its lowest entry a law has to be positive still


@dataclass(frozen=True, eq=False)
class IsoLaw:
    """A two-parameter law of ISO with its covariance.

    Parameters
    ----------
    family : str
        ``affine`` c0 + c1 ISO, ``quadratic`` c0 + c1 ISO^2, ``power`` exp(c0 + c1 ln ISO).
    coefficients : (2,) float64
    covariance : (2, 2) float64 or None
        None when neither standard errors nor a residual tell it.
    residual : float
        Root mean square relative residual of the fitted entries.

    Examples
    --------
    >>> law = fit_law([100, 200, 400], [1.0, 2.0, 4.0], family="affine")
    >>> round(float(law.value(800)), 6)
    8.0
    """

    family: Family
    coefficients: np.ndarray
    covariance: np.ndarray | None
    residual: float

    def _basis(self, iso: Any) -> np.ndarray:
        iso = np.asarray(iso, np.float64)
        second = {"affine": iso, "quadratic": iso**2, "power": np.log(iso)}[self.family]
        return np.stack([np.ones_like(second), second], axis=-1)

    def value(self, iso: Any) -> Any:
        """The law at an ISO, in the unit of the fitted values."""
        linear = self._basis(iso) @ self.coefficients
        return np.exp(linear) if self.family == "power" else linear

    def _log_gradient(self, iso: Any) -> np.ndarray:
        basis = self._basis(iso)
        return basis if self.family == "power" else basis / np.asarray(self.value(iso))[..., None]

    def log_se(self, iso: Any) -> Any:
        """Relative standard error of the law at an ISO; NaN when unknown."""
        return self._log_error(self._log_gradient(iso))

    def log_ratio_se(self, iso: Any, anchor: Any) -> Any:
        """Relative standard error of ``value(iso) / value(anchor)``; NaN when unknown."""
        return self._log_error(self._log_gradient(iso) - self._log_gradient(anchor))

    def _log_error(self, gradient: np.ndarray) -> Any:
        if self.covariance is None:
            return np.full(gradient.shape[:-1], np.nan)
        return np.sqrt(np.maximum(np.einsum("...i,ij,...j", gradient, self.covariance, gradient), 0.0))

    def interval(self, iso: Any, *, z: float = 1.96) -> tuple[Any, Any]:
        """Confidence interval of the law (95 % by default), log-normal."""
        value, error = self.value(iso), self.log_se(iso)
        return value * np.exp(-z * error), value * np.exp(z * error)


def fit_law(iso: Any, values: Any, relative_se: Any = None, *, family: Family) -> IsoLaw:
    """Weighted fit of one family, relative residuals.

    Parameters
    ----------
    iso, values : (N,) positive; N = 1 gives the proportional law
    relative_se : (N,), optional
        Relative standard errors; without them the residual scatter tells the covariance (N >= 3).
    family : str

    Returns
    -------
    IsoLaw
        Quadratic coefficients are never negative.  The covariance is widened where the residuals exceed
        the errors (chi2 per degree of freedom above 1).
    """
    iso, values = np.asarray(iso, np.float64), np.asarray(values, np.float64)
    known = relative_se is not None
    error = np.asarray(relative_se, np.float64) if known else np.ones_like(values)
    if iso.size == 1:
        exponent = {"affine": 1, "quadratic": 2, "power": 1}[family]
        only = float(values[0] / iso[0] ** exponent)
        coefficients = np.array([math.log(only), 1.0]) if family == "power" else np.array([0.0, only])
        return IsoLaw(family, coefficients, None, 0.0)
    probe = IsoLaw(family, np.zeros(2), None, 0.0)
    basis = probe._basis(iso)
    if family == "power":
        design, target = basis / error[:, None], np.log(values) / error
    else:
        design, target = basis / (values * error)[:, None], 1.0 / error
    free = np.ones(2, bool)
    scale = np.linalg.norm(design, axis=0)
    if family == "quadratic":
        from scipy.optimize import nnls

        coefficients = nnls(design / scale, target)[0] / scale
        free = coefficients > 0
    else:
        coefficients = np.linalg.lstsq(design / scale, target, rcond=None)[0] / scale
    law = IsoLaw(family, coefficients, None, 0.0)
    fitted = law.value(iso)
    if np.any(fitted <= 0):
        return IsoLaw(family, coefficients, None, math.inf)
    relative = np.log(fitted / values)
    dof = iso.size - 2
    chi2_per_dof = float(np.sum((relative / error) ** 2) / dof) if dof > 0 else math.nan
    covariance = None
    if known or dof > 0:
        widened = max(1.0, chi2_per_dof) if known and dof > 0 else 1.0 if known else chi2_per_dof
        normal = (design / scale).T @ (design / scale)
        covariance = np.zeros((2, 2))
        inside = np.ix_(free, free)
        covariance[inside] = np.linalg.inv(normal[inside]) * widened
        covariance /= np.outer(scale, scale)
    return IsoLaw(family, coefficients, covariance, float(np.sqrt(np.mean(relative**2))))


def gain_law(iso: Any, system_gain: Any, relative_se: Any = None) -> IsoLaw:
    """K(ISO): affine, or log-linear where that leaves the smaller residual."""
    return _better(iso, system_gain, relative_se, "affine")


def read_law(iso: Any, read_var: Any, relative_se: Any = None) -> IsoLaw:
    """v(ISO): quadratic, or log-linear where that leaves the smaller residual."""
    return _better(iso, read_var, relative_se, "quadratic")


def _better(iso: Any, values: Any, relative_se: Any, physical: Family) -> IsoLaw:
    law = fit_law(iso, values, relative_se, family=physical)
    if np.size(iso) < LAW_ENTRIES and math.isfinite(law.residual):
        return law
    other = fit_law(iso, values, relative_se, family="power")
    # The physical law may not pass zero in the range it will be asked for.
    allowed = (
        math.isfinite(law.residual) and np.all(law.value(np.min(iso) / _ASKED_BELOW) > 0) and law.coefficients[1] >= 0
    )
    other_allowed = other.coefficients[1] >= 0  # neither K nor read noise in DN falls with ISO inside a segment
    return law if allowed and (law.residual <= other.residual or not other_allowed) else other
