"""Widths of an analog-to-digital converter's codes from the histogram of what it stored.

    width_c = n_c / exp(P(x_c)) [LSB],      DNL = width - 1

with n_c the count of code c and P a smooth law of the analog density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError

FloatArray = NDArray[np.floating]

MIN_CODE_COUNT = 400  # 5 % Poisson error of one code's width

_CODE_ROUNDS = 20
_MIN_CODES = 20  # fewer, and what the smooth law misses looks like uneven codes
_TYPICAL_DNL = 0.02  # LSB; keeps a few sure codes from outweighing all others
_EVIDENCE = 4.0  # standard errors
_LEAST_DNL = 0.02  # LSB: what the smooth law may miss from code to code under heavy tails
_LEAST_SHARE = 0.3  # of the mean square deviation that goes from code to code; a law that misses is smooth


@dataclass(frozen=True, eq=False)
class CodeWidths:
    """Relative widths of the converter's codes: DNL = width - 1.

    Parameters
    ----------
    code : (n,) int [DN]
    width, width_se : (n,)
        1 is the ideal width, 1 LSB.
    rms, rms_se : float [LSB]
        Root mean square of DNL, counting noise subtracted; NaN when it is not above that noise.
    order : int
        Of the smooth law; 0 for a combination of tables.
    """

    code: NDArray[np.integer]
    width: FloatArray
    width_se: FloatArray
    rms: float
    rms_se: float
    order: int

    @property
    def code_to_code(self) -> tuple[float, float]:
        """Variance of DNL [LSB^2] from second differences, which no smooth misfit of the law enters, and its error.

        Independent widths of variance V have second differences of variance 6 V; counting noise is subtracted.
        """
        noise, weights = self._second_differences
        value = float((weights * (np.diff(self.width, 2) ** 2 - noise)).sum() / weights.sum() / 6.0)
        return value, self._error(noise + 6.0 * max(value, 0.0))

    @property
    def _second_differences(self) -> tuple[FloatArray, FloatArray]:
        """Counting variance of the second differences of the widths, and their weights."""
        noise = self.width_se[:-2] ** 2 + 4.0 * self.width_se[1:-1] ** 2 + self.width_se[2:] ** 2
        return noise, (noise + 6.0 * _TYPICAL_DNL**2) ** -2.0

    def _error(self, variance: FloatArray) -> float:
        """Standard error of ``code_to_code`` where second differences have this variance."""
        _, weights = self._second_differences
        # White noise correlates its second differences by -2/3 and 1/6: squares sum as if 1.94 times as scattered.
        correlated = 1.0 + 2.0 * ((2.0 / 3.0) ** 2 + (1.0 / 6.0) ** 2)
        return float(np.sqrt(2.0 * correlated * (weights**2 * variance**2).sum()) / weights.sum() / 6.0)

    @property
    def telling(self) -> bool:
        """Are there codes enough to tell uneven ones from what a smooth law misses?"""
        return len(self.code) >= _MIN_CODES

    @property
    def uneven(self) -> bool:
        """Do the widths differ from code to code, beyond counting noise and beyond what the smooth law misses?"""
        if not self.telling:
            return False
        weights = (self.width_se**2 + _TYPICAL_DNL**2) ** -2.0
        total = float((weights * ((self.width - 1.0) ** 2 - self.width_se**2)).sum() / weights.sum())
        value, _ = self.code_to_code
        return value > max(_EVIDENCE * self._error(self._second_differences[0]), _LEAST_DNL**2, _LEAST_SHARE * total)


def code_widths(
    counts: NDArray[np.integer],
    *,
    first_code: int = 0,
    min_count: int = MIN_CODE_COUNT,
    order: int | None = None,
) -> CodeWidths:
    """Code widths from a histogram of darks or of evenly lit flats: count over the smooth expectation.

        width_c = n_c / exp(P(x_c)),      P: polynomial fitted to ln n_c

    x_c is where the code lies: the middle between the sums of the widths below and up to it, so that wide codes shift
    those above them.

    A Gaussian is of order 2; heavier tails and fixed pattern need more, and the order is the one of least BIC from 2
    to 8.  Weights are 1 / (1 / n_c + DNL^2), for counts scatter by Poisson and by the widths themselves.

    Parameters
    ----------
    counts : (n,) int
        Pixels of any number of frames with each code.
    first_code : int
        Code of ``counts[0]``.
    min_count : int
        Codes with fewer are left out.
    order : int, optional
        Of the polynomial.

    Notes
    -----
    Slow trends of the width over the codes cannot be told from the distribution's shape, so they read as 1.

    Raises
    ------
    CalibrationError
        Fewer than 8 neighboring codes have enough counts.
    """
    counts = np.asarray(counts)
    peak = int(np.argmax(counts))
    enough = counts >= min_count
    low, high = peak, peak
    while low > 0 and enough[low - 1]:
        low -= 1
    while high + 1 < len(counts) and enough[high + 1]:
        high += 1
    n = counts[low : high + 1].astype(np.float64)
    if not enough[peak] or len(n) < 8:
        raise CalibrationError(
            f"{len(n) if enough[peak] else 0} neighboring codes have {min_count} counts or more; code widths need 8. "
            "Add frames, or use flats of more levels."
        )
    orders = range(2, min(8, (len(n) - 1) // 2) + 1) if order is None else (order,)
    _, best, fitted, leverage = min((_smooth_counts(n, k) for k in orders), key=lambda fit: fit[0])
    width = n / fitted
    error = width / np.sqrt(n) * np.sqrt(np.maximum(1.0 - leverage, 0.0))
    rms, rms_se = _rms_dnl(width, error, len(n) - best - 1)
    return CodeWidths(np.arange(low, high + 1) + first_code, width, error, rms, rms_se, best)


def _smooth_counts(n: FloatArray, order: int) -> tuple[float, int, FloatArray, FloatArray]:
    """BIC, order, smooth expectation of a code of width 1, and leverage, of a weighted polynomial fit to ln n."""
    y, width, dnl_var = np.log(n), np.ones_like(n), 0.0
    fitted, leverage, weights = y, np.ones_like(y), n
    for _ in range(_CODE_ROUNDS):
        edges = np.concatenate([[0.0], np.cumsum(width)])
        x = (edges[1:] + edges[:-1]) / edges[-1] - 1.0
        design = np.polynomial.legendre.legvander(x, order)
        weights = 1.0 / (1.0 / n + dnl_var)
        root = np.sqrt(weights)
        q, r = np.linalg.qr(design * root[:, None])
        fitted = design @ np.linalg.solve(r, q.T @ (y * root))
        leverage = (q**2).sum(axis=1)
        spread = float(((y - fitted) ** 2).sum()) / max(len(y) - order - 1, 1)
        dnl_var = max(spread - float(np.mean(1.0 / n)), 0.0)
        width = np.exp(y - fitted)
    deviance = float((weights * (y - fitted) ** 2).sum() - np.log(weights).sum())
    return deviance + (order + 1) * float(np.log(len(y))), order, np.exp(fitted), leverage


def combine_code_widths(tables: Sequence[CodeWidths]) -> CodeWidths:
    """One table from several levels: widths of the same code averaged with weights 1 / se^2.

    Examples
    --------
    >>> a = CodeWidths(np.arange(8), np.full(8, 1.1), np.full(8, 0.01), 0.1, 0.0, 2)
    >>> b = CodeWidths(np.arange(4, 12), np.full(8, 0.9), np.full(8, 0.01), 0.1, 0.0, 2)
    >>> table = combine_code_widths([a, b])
    >>> len(table.code), round(float(table.width[5]), 6)
    (12, 1.0)
    """
    if not tables:
        raise ValueError("no code-width tables to combine.")
    codes = np.unique(np.concatenate([table.code for table in tables]))
    total, weight = np.zeros(len(codes)), np.zeros(len(codes))
    for table in tables:
        place = np.searchsorted(codes, table.code)
        total[place] += table.width / table.width_se**2
        weight[place] += 1.0 / table.width_se**2
    width, error = total / weight, 1.0 / np.sqrt(weight)
    return CodeWidths(codes, width, error, *_rms_dnl(width, error, len(codes)), order=0)


def _rms_dnl(width: FloatArray, error: FloatArray, dof: int) -> tuple[float, float]:
    """Root mean square of width - 1, counting noise subtracted, and its standard error."""
    measured = float(((width - 1.0) ** 2).sum()) / max(dof, 1)
    square = measured - float((error**2).sum()) / max(dof, 1)
    if square <= 0:
        return float("nan"), float("nan")
    return float(np.sqrt(square)), float(measured * np.sqrt(2.0 / max(dof, 1)) / (2.0 * np.sqrt(square)))
