"""Tiles: exact partition of unity, any size, any number of workers."""

import threading

import numpy as np
import pytest

from rawkit.restore.tiling import map_tiles, ramp, spans, tile_for_memory


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [(5, 64, 16), (65, 64, 16), (517, 96, 32), (97, 96, 32), (1003, 100, 32), (1000, 128, 0)],
)
def test_weights_of_all_tiles_add_up_to_exactly_one(length, tile, overlap):
    total = np.zeros(length, np.float32)
    covered = np.zeros(length, int)
    for span in spans(length, tile, overlap):
        assert span.stop - span.start <= tile
        total[span.start : span.stop] += span.weights()
        covered[span.start : span.stop] += 1
    assert np.array_equal(total, np.ones(length, np.float32))
    assert covered.max() <= 2


def test_tiles_are_no_more_and_no_smaller_than_needed():
    sizes = [s.stop - s.start for s in spans(1000, 256, 32)]
    assert len(sizes) == 5  # 4 tiles of 256 cover 4 * 256 - 3 * 32 = 928
    assert min(sizes) > 1000 / 5


def test_the_feather_is_linear():
    assert ramp(4).tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 63, 200), (3, 131, 77), (2, 300, 64)])
def test_the_identity_comes_back_bit_for_bit_where_values_are_short(shape):
    """Whole numbers times weights of few bits are exact in float32, so the blend must be exact too."""
    planes = np.random.default_rng(1).integers(-500, 500, shape).astype(np.float32)
    assert np.array_equal(map_tiles(lambda p: p, planes, tile=64, overlap=16), planes)


def test_workers_do_not_change_a_bit():
    planes = np.random.default_rng(2).standard_normal((2, 300, 260)).astype(np.float32)

    def blur(piece):
        return piece + np.roll(piece, 1, axis=1) / 3

    one = map_tiles(blur, planes, tile=96, overlap=32)
    assert np.array_equal(one, map_tiles(blur, planes, tile=96, overlap=32, workers=5))


def test_work_runs_in_other_threads_and_progress_in_this_one():
    seen, threads = [], set()

    def fn(piece):
        threads.add(threading.get_ident())
        return piece

    def progress(done, total):
        seen.append((done, total, threading.get_ident()))

    map_tiles(fn, np.zeros((1, 200, 200), np.float32), tile=64, overlap=16, workers=3, progress=progress)
    count = len(spans(200, 64, 16)) ** 2
    assert [(d, t) for d, t, _ in seen] == [(i + 1, count) for i in range(count)]
    assert {thread for _, _, thread in seen} == {threading.get_ident()}
    assert threading.get_ident() not in threads


def test_an_error_in_a_tile_arrives():
    def fail(piece):
        raise RuntimeError("tile")

    with pytest.raises(RuntimeError, match="tile"):
        map_tiles(fail, np.zeros((1, 300, 300), np.float32), tile=64, overlap=16, workers=2)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 24), (64, 64), (64, -1)])
def test_overlaps_that_cannot_be_exact_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="power of two"):
        spans(100, tile, overlap)


def test_tile_size_follows_memory_between_its_bounds():
    def size(budget):
        return tile_for_memory(4, bytes_per_sample=50, budget=budget, smallest=96, largest=512)

    assert size(1e3) == 96
    assert size(1e12) == 512
    edge = size(20e6)
    assert 96 < edge < 512
    assert edge % 16 == 0
    assert 4 * 50 * edge**2 <= 20e6 < 4 * 50 * (edge + 16) ** 2
