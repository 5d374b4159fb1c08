"""The sums over pairs and stacks against bare NumPy, and on a torch device against the compiled ones."""

import numpy as np
import pytest

from rawkit.raw.image import CFA
from rawkit.sensor.pair_kernel import JOINT, REACH, Limits, dark_sums, flat_sums, joint_histogram
from rawkit.sensor.stack_kernel import add_frames

XTRANS = "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"


def pair(dtype, shape):
    """Darks around 100 DN with hot, telegraph and dead pixels."""
    rng = np.random.default_rng(3)
    a, b = (np.clip(np.rint(rng.normal(100, 3, shape)), 0, 255).astype(dtype) for _ in (0, 1))
    a[3, 5] = b[3, 5] = 250
    a[7, 8] = 180
    a[-1, -1] = b[-1, -1] = 0
    return a, b


def limits(phases):
    steps = np.arange(phases)
    return Limits(0.13 + 0.1 * steps, 10.5 + steps, 200.2 - steps, np.full(phases, 30.7))


def in_numpy(a, b, cfa, near):
    """Maps of phase, difference, and of what counts."""
    rows, cols = cfa.shape
    phase = np.tile(cfa.phase_map, (a.shape[0] // rows + 1, a.shape[1] // cols + 1))[: a.shape[0], : a.shape[1]]
    d = a.astype(np.float64) - b
    close = 2.0 * np.minimum(a, b) <= near.middle[phase] + near.reach[phase]
    close &= 2.0 * np.maximum(a, b) >= near.middle[phase] - near.reach[phase]
    return phase, d, close, np.abs(d - near.center[phase]) <= near.limit[phase]


def moments(a, b, phase, keep):
    parts = [(keep, a, b) for keep in (keep & (phase == p) for p in range(phase.max() + 1))]
    return [
        [k.sum(), a[k].sum(), b[k].sum(), (a - b)[k].sum(), ((a - b)[k] ** 2).sum(), (a[k] ** 2).sum()]
        for k, a, b in ((k, a.astype(np.float64), b.astype(np.float64)) for k, a, b in parts)
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("pattern", ["MONO", "RGGB", XTRANS])
@pytest.mark.parametrize("shape", [(60, 72), (61, 83)])
def test_sums_of_darks_are_those_of_numpy(dtype, pattern, shape):
    cfa, (a, b) = CFA.parse(pattern), pair(dtype, shape)
    near = limits(len(cfa.phases))
    phase, d, close, inside = in_numpy(a, b, cfa, near)
    keep = close & inside
    found = dark_sums(a, b, cfa.phase_map, near)
    np.testing.assert_array_equal(found.moments, moments(a, b, phase, keep))
    np.testing.assert_array_equal(found.hot, np.flatnonzero(~close))
    assert {3 * shape[1] + 5, a.size - 1} <= set(found.hot)
    for parity in (0, 1):
        np.testing.assert_array_equal(found.columns[:, parity], (d * keep)[parity::2].sum(axis=0))
        np.testing.assert_array_equal(found.column_counts[:, parity], keep[parity::2].sum(axis=0))
    np.testing.assert_array_equal(found.rows.sum(axis=1), (d * keep).sum(axis=1))
    np.testing.assert_array_equal(found.row_counts.sum(axis=1), keep.sum(axis=1))
    for p in range(len(cfa.phases)):
        values, counts = np.unique(d[close & (phase == p)].astype(int), return_counts=True)
        np.testing.assert_array_equal(found.differences[p, values + REACH], counts)
        assert found.differences[p].sum() == counts.sum()
    joint = joint_histogram(a, b, cfa.phase_map, near, np.full(len(cfa.phases), 88))
    window = close & (a >= 88) & (a < 88 + JOINT) & (b >= 88) & (b < 88 + JOINT)
    assert joint.sum() == window.sum() > 0


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("pattern", ["MONO", "RGGB", XTRANS])
def test_sums_of_flats_leave_out_what_is_excluded(dtype, pattern):
    cfa, (a, b) = CFA.parse(pattern), pair(dtype, (61, 83))
    near, excluded = limits(len(cfa.phases)), np.array([5, 100, 3 * 83 + 5])
    phase, _, _, keep = in_numpy(a, b, cfa, near)
    keep.ravel()[excluded] = False
    found = flat_sums(a, b, cfa.phase_map, near, excluded)
    np.testing.assert_array_equal(found.moments, moments(a, b, phase, keep))
    assert found.codes.sum() % 83 == 0  # whole rows


def test_full_scale_codes_do_not_overflow():
    a, b = np.full((50, 60), 65535, np.uint16), np.zeros((50, 60), np.uint16)
    wide = Limits(*(np.array([value]) for value in (0.0, 65535.0, 65535.0, 65535.0)))
    expected = 3000 * np.array([1.0, 65535.0, 0.0, 65535.0, 65535.0**2, 65535.0**2])
    for sums in (flat_sums, dark_sums):
        np.testing.assert_array_equal(sums(a, b, np.zeros((1, 1), int), wide).moments[0], expected)


def equal_on(device):
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is at hand")
    from rawkit.sensor import device_sums

    for dtype in (np.uint8, np.uint16):
        for pattern in ("MONO", "RGGB", XTRANS):
            cfa, (a, b) = CFA.parse(pattern), pair(dtype, (61, 83))
            if dtype == np.uint16:
                a, b = a + np.uint16(40000), b + np.uint16(40000)  # beyond int16
            near = limits(len(cfa.phases))
            if dtype == np.uint16:
                near = near._replace(middle=near.middle + 80000.0)
            excluded = np.array([5, 100])
            both = [
                (dark_sums(a, b, cfa.phase_map, near), device_sums.dark_sums(a, b, cfa.phase_map, near, device=device)),
                (
                    flat_sums(a, b, cfa.phase_map, near, excluded),
                    device_sums.flat_sums(a, b, cfa.phase_map, near, excluded, device=device),
                ),
            ]
            for compiled, there in both:
                for name in compiled._fields:
                    np.testing.assert_array_equal(getattr(compiled, name), getattr(there, name), err_msg=name)
            total, squares = np.zeros(a.shape, np.uint32), np.zeros(a.shape, np.uint64)
            lines = add_frames((a, b), total, squares, cfa.shape)
            stack = device_sums.DeviceStack(a.shape, device)
            there = *stack.add((a, b), cfa.shape), *stack.sums()
            for mine, theirs in zip((*lines, total, squares), there, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_torch_takes_the_same_sums():
    equal_on("cpu")


@pytest.mark.gpu
def test_a_gpu_takes_the_same_sums():
    equal_on("cuda")
