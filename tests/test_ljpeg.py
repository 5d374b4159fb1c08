"""The lossless JPEG encoder: what two foreign decoders give back is what went in, and the code is a good one."""

import math
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest

from rawkit.raw.ljpeg import code_lengths, encode

DECODERS = [imagecodecs.ljpeg_decode, imagecodecs.jpegsof3_decode]


def decoded(stream, shape, decoder):
    return np.asarray(decoder(stream)).reshape(shape)


def noise(shape, bits, seed=1):
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint16)


def extremes(shape):
    """Neighbors of one color differ by 0, 32768 (category 16), 65535 and 1."""
    return np.random.default_rng(2).choice(np.array([0, 1, 32767, 32768, 65535], np.uint16), shape)


def stepped(shape):
    """A mosaic with two flat colors and a bright half: mostly zero differences."""
    tile = np.zeros(shape, np.uint16)
    tile[:, ::2] = 900
    tile[shape[0] // 2 :] += 50
    return tile


TILES = {
    "zeros": (np.zeros((16, 32), np.uint16), 2),
    "one pixel pair": (np.array([[3, 1]], np.uint16), 2),
    "16-bit noise": (noise((64, 64), 16), 16),
    "2-bit noise": (noise((33, 30), 2), 2),
    "extremes": (extremes((64, 128)), 16),
    "flat colors": (stepped((48, 64)), 10),
    "three colors, odd width": (noise((31, 45, 3), 12), 12),
    "one color, odd width": (noise((9, 7, 1), 14), 14),
    "four colors": (extremes((20, 20, 4)), 16),
    "every byte stuffed": (np.tile(np.array([0, 0, 32767, 32767, 65535, 65535], np.uint16), (40, 40)), 16),
}


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", TILES)
def test_foreign_decoders_return_the_samples(name, decoder):
    tile, precision = TILES[name]
    if decoder is imagecodecs.jpegsof3_decode and tile.ndim == 3 and tile.shape[2] == 4:
        pytest.skip("this decoder knows up to three components")
    np.testing.assert_array_equal(decoded(encode(tile, precision), tile.shape, decoder), tile)


def of_categories(counts):
    """(1, N, 1) tile whose differences fall counts[s] times into category s, in random order."""
    steps = np.concatenate([np.full(n, (1 << s) >> 1 if s else 0) for s, n in enumerate(counts)]).astype(np.int64)
    steps = np.random.default_rng(3).permutation(steps)
    return ((np.cumsum(steps) + 32768) % 65536).astype(np.uint16).reshape(1, -1, 1)


FIBONACCI = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: d.__name__)
@pytest.mark.parametrize("counts", [FIBONACCI, FIBONACCI[::-1]], ids=["rare small", "rare large"])
def test_fibonacci_histogram_still_fits_16_bit_codes(counts, decoder):
    # Huffman's worst case: 18 symbols (one reserved) would take codes of 17 bits.
    tile = of_categories(counts)
    np.testing.assert_array_equal(decoded(encode(tile, 16), tile.shape, decoder), tile)


@pytest.mark.parametrize("seed", range(20))
def test_code_is_prefix_free_complete_and_never_all_ones(seed):
    rng = np.random.default_rng(seed)
    histogram = np.round(np.exp(rng.uniform(0, 14, 17))).astype(int) * (rng.random(17) < rng.uniform(0.1, 1))
    histogram[rng.integers(17)] = 1 + seed
    if seed == 0:
        histogram = np.array(FIBONACCI)
    lengths = code_lengths(histogram.tolist())
    assert set(lengths) == set(np.flatnonzero(histogram))
    assert max(lengths.values()) <= 16
    # Kraft's sum is 1 less exactly the reserved all-ones code, which is one of the longest.
    assert sum(2.0**-n for n in lengths.values()) == 1 - 2.0 ** -max(lengths.values())
    ordered = sorted(lengths, key=lambda s: -histogram[s])
    assert [lengths[s] for s in ordered] == sorted(lengths.values())


def test_size_is_within_huffmans_bound_of_the_entropy():
    rng = np.random.default_rng(4)
    tile = np.clip(rng.poisson(2000, (256, 256)) * 2 + rng.normal(512, 10, (256, 256)), 0, 16383).astype(np.uint16)
    difference = np.abs(tile[:, 2:].astype(int) - tile[:, :-2])
    category = np.ceil(np.log2(difference + 1)).astype(int)
    share = np.bincount(category.ravel()) / category.size
    entropy = -sum(p * math.log2(p) for p in share if p) + float(category.mean())
    bits = 8 * len(encode(tile, 14)) / tile.size
    # Huffman loses less than 1 bit (0.1 is typical of 8 symbols); stuffing 1/256; the first column and header 1 %.
    assert entropy < bits < 1.02 * (entropy + 0.1)


def test_threads_give_the_same_streams():
    tiles = [noise((96, 96), 14, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda t: encode(t, 14), tiles)) == [encode(t, 14) for t in tiles]


def test_a_view_with_strides_is_encoded_as_it_looks():
    big = noise((64, 128), 12)
    view = big[::2, 10:74]
    np.testing.assert_array_equal(decoded(encode(view, 12), view.shape, imagecodecs.ljpeg_decode), view)


@pytest.mark.parametrize(
    ("tile", "precision", "message"),
    [
        (np.zeros((4, 5), np.uint16), 8, "even width"),
        (np.zeros((4, 4), np.uint8), 8, "uint16"),
        (np.zeros((4, 4, 5), np.uint16), 8, "1 to 4 components"),
        (np.full((4, 4), 256, np.uint16), 8, "more than precision 8"),
        (np.zeros((4, 4), np.uint16), 1, "precision 1"),
        (np.zeros((0, 4), np.uint16), 8, "uint16"),
    ],
)
def test_misuse_is_refused(tile, precision, message):
    with pytest.raises(ValueError, match=message):
        encode(tile, precision)
