"""Classifier two-sample test: can a small network tell patches of one stack of frames from those of another?

Each patch of 32 x 32 stored values becomes 45 numbers (moments, quantiles, variance of row and column means,
autocorrelation, log power over |f|, |fx| and |fy|, shares of the lowest two bits); a network with one hidden layer
learns which stack they come from.  Accuracy on patches of frames *and* positions that it was not trained on is 0.5
when the stacks cannot be told apart by these features.

Frames are held out because patches of one frame share its rows and its drift, positions because patches at one
position share the fixed pattern: a network that has learnt a place by heart must not profit from it.

References
----------
Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SIDE = 32
_FOLDS = 4
_MOST_PATCHES = 6000  # of one stack
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS = 8
_HIDDEN, _BATCH, _RATE, _DECAY = 24, 128, 4e-3, 1e-4
_EPOCHS, _STEPS = 16, 300  # at least
_FARTHEST = 6.0  # standard deviations at which features are cut, so that one hot pixel does not rule the fit


def patch_features(stack: NDArray) -> NDArray[np.float32]:
    """Features of the patches of every frame.

    Parameters
    ----------
    stack : (n, H, W) stored values [DN]

    Returns
    -------
    (n, patches, features) float32
        Patches lie on a grid; above 6000 in all, every k-th position is taken.
    """
    n, height, width = stack.shape
    rows, cols = height // SIDE, width // SIDE
    stride = max(1, -(-n * rows * cols // _MOST_PATCHES))
    features = []
    for frame in stack:
        grid = frame[: rows * SIDE, : cols * SIDE].reshape(rows, SIDE, cols, SIDE).swapaxes(1, 2)
        features.append(_features(grid.reshape(-1, SIDE, SIDE)[::stride]))
    return np.stack(features)


def _features(patches: NDArray) -> NDArray[np.float32]:
    codes = np.rint(patches).astype(np.int64)
    x = patches.astype(np.float64)
    mean = x.mean(axis=(1, 2), keepdims=True)
    x = x - mean
    variance = np.maximum((x**2).mean(axis=(1, 2)), 1e-12)
    sd = np.sqrt(variance)
    z = x / sd[:, None, None]
    flat = z.reshape(len(z), -1)
    columns = [mean[:, 0, 0], np.log(variance), np.cbrt((flat**3).mean(1)), np.log((flat**4).mean(1))]
    columns += list(np.quantile(flat, _QUANTILES, axis=1))
    columns += [np.log(SIDE * (z.mean(axis=axis) ** 2).mean(1) + 1e-6) for axis in (2, 1)]
    for down, right in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1)):
        columns.append((z[:, down:, right:] * z[:, : SIDE - down, : SIDE - right]).mean(axis=(1, 2)))
    power = np.abs(np.asarray(fft.rfft2(z))) ** 2
    fy, fx = np.abs(np.fft.fftfreq(SIDE))[:, None], np.fft.rfftfreq(SIDE)[None]
    inner = (fy > 0) & (fx > 0)
    for position, top in ((np.hypot(fy, fx), np.sqrt(0.5)), (fx + 0 * fy, 0.5), (fy + 0 * fx, 0.5)):
        which = np.minimum((position / top * _BINS).astype(int), _BINS - 1)
        columns += [np.log(power[:, inner & (which == b)].mean(1) + 1e-9) for b in range(_BINS)]
    columns += [((codes & 3) == bits).mean(axis=(1, 2)) for bits in (1, 2, 3)]
    return np.stack(columns, axis=1).astype(np.float32)


def accuracy(a: NDArray[np.float32], b: NDArray[np.float32], *, seed: int) -> float:
    """Share of held-out patches put into the right stack; 0.5 is chance.

    Parameters
    ----------
    a, b : (n, patches, features), (m, patches, features)
        Of ``patch_features``.
    seed : int
        Of the network's start and order of learning: the same seed gives the same accuracy.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = (patch_features(rng.normal(0, sigma, (4, 256, 256))) for sigma in (3.0, 4.0))
    >>> accuracy(a, b, seed=1) > 0.95
    True
    """
    x = np.concatenate([a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])]).astype(np.float64)
    label = np.repeat((0.0, 1.0), (a.shape[0] * a.shape[1], b.shape[0] * b.shape[1]))
    frame, place = (np.concatenate([np.indices(s.shape[:2])[axis].ravel() for s in (a, b)]) % _FOLDS for axis in (0, 1))
    by_frame = min(len(a), len(b)) >= _FOLDS
    correct = []
    for fold in range(_FOLDS):
        held_place = place == fold
        held_frame = frame == fold if by_frame else np.ones(len(x), bool)
        train = ~held_place & ~held_frame if by_frame else ~held_place
        test = held_place & held_frame
        score = _fit_and_score(x[train], label[train], x[test], np.random.default_rng((seed, fold)))
        sides = [np.mean((score > 0)[label[test] == side] == bool(side)) for side in (0, 1)]
        correct.append(float(np.mean(sides)))
    return float(np.mean(correct))


def _fit_and_score(x: NDArray, label: NDArray, test: NDArray, rng: np.random.Generator) -> NDArray:
    """Log odds of the test rows, by a network tanh(x A + a) B + b fitted to cross entropy with Adam."""
    mean, sd = x.mean(axis=0), x.std(axis=0) + 1e-12
    x, test = (np.clip((v - mean) / sd, -_FARTHEST, _FARTHEST) for v in (x, test))
    size = x.shape[1]
    weights = [rng.normal(0, size**-0.5, (size, _HIDDEN)), np.zeros(_HIDDEN), np.zeros(_HIDDEN), np.zeros(())]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    share = np.where(label > 0, 0.5 / max(label.mean(), 1e-9), 0.5 / max(1 - label.mean(), 1e-9))
    batches = max(1, len(x) // _BATCH)
    epochs = max(_EPOCHS, -(-_STEPS // batches))
    step = 0
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(x)), batches):
            step += 1
            hidden = np.tanh(x[batch] @ weights[0] + weights[1])
            odds = hidden @ weights[2] + weights[3]
            error = share[batch] * (1.0 / (1.0 + np.exp(-odds)) - label[batch]) / len(batch)
            back = error[:, None] * weights[2] * (1.0 - hidden**2)
            slopes = [x[batch].T @ back, back.sum(axis=0), hidden.T @ error, error.sum()]
            rate = _RATE * (1.0 - (step - 1) / (epochs * batches))
            for k, slope in enumerate(slopes):
                m, v = moments[k]
                m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
                moments[k] = (m, v)
                update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                weights[k] = weights[k] - rate * (update + _DECAY * weights[k])
    return np.tanh(test @ weights[0] + weights[1]) @ weights[2] + weights[3]
