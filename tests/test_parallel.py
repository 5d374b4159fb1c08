"""Many files: order, errors, dead workers, and the same answers from every backend."""

import errno
import os
import signal

import pytest

from rawkit.errors import RawkitError, UnsupportedRawError
from rawkit.parallel import map_files


def work(item):
    """Square; a negative number is an error, 99 kills the worker, 28 is a full disk."""
    if item == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 28:
        raise OSError(errno.ENOSPC, "No space left on device")
    if item < 0:
        raise UnsupportedRawError(f"{item}\nis negative")
    return item * item, os.getpid()


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_results_come_in_order_and_one_bad_file_does_not_stop_the_others(backend):
    items = [*range(9), -1, 28, 7]
    results = list(map_files(work, items, backend=backend, workers=2))
    assert [r.item for r in results] == items
    assert [r.value[0] for r in results if r.error is None] == [i * i for i in items if i not in (-1, 28)]
    assert [r.error for r in results if r.item == -1] == ["-1 is negative"]
    assert [r.errno for r in results if r.item == 28] == [errno.ENOSPC]
    assert all((r.value[1] == os.getpid()) == (backend == "serial") for r in results if r.value)


def test_a_dead_worker_costs_one_file():
    items = [1, 2, 99, 3, 4, 5]
    results = list(map_files(work, items, workers=2))
    assert [r.item for r in results] == items
    assert [r.error is not None for r in results] == [i == 99 for i in items]
    assert "died" in results[2].error


def test_few_items_are_under_way():
    """Inputs are taken as workers need them, so that a long list costs no memory."""
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_files(work, source(), workers=1)
    next(results)
    assert len(taken) <= 3
    results.close()


def test_dask_gives_the_same():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        items = [3, -1, 5]
        results = list(map_files(work, items, backend="inproc" + cluster.scheduler_address.removeprefix("inproc")))
    assert [r.item for r in results] == items
    assert [r.value and r.value[0] for r in results] == [9, None, 25]
    assert "negative" in results[1].error


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="Dask"):
        map_files(work, [], backend="threads")
    with pytest.raises(ValueError, match="at least 1"):
        map_files(work, [], workers=0)
    pytest.importorskip("distributed")
    with pytest.raises(RawkitError, match="no Dask scheduler"):
        list(map_files(work, [1], backend="tcp://127.0.0.1:9?"))
