"""Many files: order, errors, dead workers, and the same answers from every backend."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rawkit import parallel
from rawkit.errors import RawkitError, UnsupportedRawError
from rawkit.parallel import Limits, map_files, relayed


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


def kill_once(folder, item):
    """Dies with the first attempt at item 2, leaving a mark."""
    mark = folder / "tried"
    if item == 2 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_a_killed_workers_file_is_tried_once_more_in_another_process(tmp_path):
    results = list(map_files(partial(kill_once, tmp_path), range(5), workers=2))
    assert [r.error for r in results] == [None] * 5
    assert results[2].value != int((tmp_path / "tried").read_text())


def hang_or_hoard(item):
    """Sleeps for "hang", allocates a gigabyte for "hoard"."""
    if item == "hang":
        time.sleep(600)
    return np.ones(2**30 if item == "hoard" else 8, np.uint8).sum().item()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux")
def test_limits_of_time_and_memory_cost_one_file_each():
    items = ["a", "hang", "b", "hoard", "c"]
    start = time.monotonic()
    results = list(map_files(hang_or_hoard, items, workers=1, limits=Limits(seconds=3.0, memory=600 * 2**20)))
    assert time.monotonic() - start < 60
    assert [r.value for r in results] == [8, None, 8, None, 8]
    assert "not done after 3 s" in results[1].error
    assert "llocate" in results[3].error
    with pytest.raises(ValueError, match="positive"):
        Limits(seconds=0.0)


def test_a_slow_file_does_not_idle_the_other_workers(tmp_path):
    """While file 0 waits for the last one to be done, the other worker does all the rest."""
    results = list(map_files(partial(wait_for_last, tmp_path), range(8), workers=2, limits=Limits(seconds=60.0)))
    assert [r.value for r in results] == list(range(8))


def wait_for_last(folder, item):
    mark = folder / "last"
    while item == 0 and not mark.exists():
        time.sleep(0.01)
    if item == 7:
        mark.write_text("")
    return item


def write_pid_and_sleep(folder, item):
    (folder / f"{item}.pid").write_text(str(os.getpid()))
    time.sleep(600)


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_a_killed_parent(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\nfrom functools import partial\nfrom pathlib import Path\n"
        "import test_parallel as t\nfrom rawkit.parallel import map_files\n"
        "list(map_files(partial(t.write_pid_and_sleep, Path(sys.argv[1])), range(2), workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)])
    deadline = time.monotonic() + 60
    while len(pids := [p.read_text() for p in tmp_path.glob("*.pid")]) < 2 or "" in pids:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mistaken(item):
    raise KeyError(item)


def test_a_mistake_of_ours_is_raised_with_its_place():
    with pytest.raises(KeyError) as caught:
        list(map_files(mistaken, [1], workers=1))
    assert "mistaken" in str(caught.value.__cause__)


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


class Recorder:
    """Three stages that take their time and note when; a text may order an accident in one of them."""

    stages = 3

    def __call__(self, item):
        return parallel.last(self.steps(item))

    def steps(self, item):
        spans = []
        for stage in ("read", "compute", "write"):
            start = time.monotonic()
            time.sleep(0.15)
            if item == f"bad {stage}":
                raise UnsupportedRawError(item)
            if item == f"kill {stage}":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == f"hang {stage}":
                time.sleep(600)
            spans.append((start, time.monotonic()))
            if stage != "write":
                yield
        return item.upper(), spans


def test_stages_of_successive_files_overlap():
    items = [f"file {number}" for number in range(6)]
    results = list(map_files(Recorder(), items, workers=1, overlap=True))
    assert [r.item for r in results] == items
    assert [r.value[0] for r in results] == [r.value[0] for r in map_files(Recorder(), items, backend="serial")]
    spans = [r.value[1] for r in results]
    for one, two in zip(spans[1:], spans[2:], strict=False):
        assert two[0][0] < one[1][1]  # the next file is read before this one is computed
        assert two[1][0] < one[2][1]  # and computed before this one is written
        assert two[1][0] >= one[1][1]  # but computed after it: the stages keep the order


def test_accidents_in_any_stage_cost_their_own_files():
    texts = ["a", "bad read", "b", "bad compute", "c", "bad write", "kill compute", "d", "kill write", "hang read", "e"]
    results = list(map_files(Recorder(), texts, workers=1, overlap=True, limits=Limits(seconds=3.0)))
    assert [r.item for r in results] == texts
    assert [r.value is not None for r in results] == [len(text) == 1 for text in texts]
    reasons = {r.item: r.error for r in results if r.error}
    assert all(reasons[text] == text for text in texts if text.startswith("bad"))
    assert all("died twice" in reasons[text] for text in texts if text.startswith("kill"))
    assert "limit" in reasons["hang read"]


def device_of(item):
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def test_each_worker_sees_a_device_of_its_own():
    environments = [{"CUDA_VISIBLE_DEVICES": name} for name in ("0", "1")]
    results = list(map_files(device_of, range(8), workers=2, environments=environments))
    seen = {r.value for r in results}
    assert {device for device, _ in seen} == {"0", "1"}
    assert len(seen) == 2  # a process never changes its device


def slow_square(item):
    time.sleep(0.2)
    return item * item


class Cluster:
    """A Dask scheduler at a fixed address and one worker, each in a process of its own, which can be killed."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.folder, self.processes = folder, {}

    def start(self, *kinds):
        port = self.address.rsplit(":", 1)[1]
        for kind in kinds:
            options = (
                ("--host", "127.0.0.1", "--port", port, "--no-dashboard")
                if kind == "scheduler"
                else (self.address, "--nthreads", "2", "--no-nanny", "--no-dashboard", "--local-directory", self.folder)
            )
            self.processes[kind] = subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *map(str, options)],
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            )

    def kill(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed")
    made = Cluster(tmp_path)
    made.start("scheduler", "worker")
    deadline = time.monotonic() + 60  # a busy machine takes its time
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(made.address.rsplit(":", 1)[1]))) == 0:
                break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield made
    made.kill()


def test_a_cluster_that_is_lost_and_comes_back_costs_nothing(cluster):
    results = map_files(slow_square, range(12), backend=cluster.address)
    first = next(results)
    cluster.kill()
    cluster.start("scheduler", "worker")
    rest = list(results)
    assert [r.item for r in [first, *rest]] == list(range(12))
    assert [r.value for r in [first, *rest]] == [i * i for i in range(12)]


def test_a_cluster_that_does_not_come_back_ends_the_run_with_one_line(cluster, monkeypatch):
    results = map_files(slow_square, range(12), backend=cluster.address)
    next(results)
    monkeypatch.setattr(parallel, "CLUSTER_RETURN", 1.0)
    monkeypatch.setattr(parallel, "_CONNECT", 1.0)
    cluster.kill()
    start = time.monotonic()
    with pytest.raises(RawkitError, match="has not come back within 1 s"):
        list(results)
    assert time.monotonic() - start < 20


def test_a_cluster_whose_last_worker_goes_is_waited_for_as_well(cluster, monkeypatch):
    results = map_files(slow_square, range(12), backend=cluster.address)
    next(results)
    monkeypatch.setattr(parallel, "CLUSTER_RETURN", 1.0)
    monkeypatch.setattr(parallel, "_LOOK", 0.5)
    cluster.processes["worker"].kill()
    with pytest.raises(RawkitError, match="has not come back within 1 s"):
        list(results)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="Dask"):
        map_files(work, [], backend="threads")
    with pytest.raises(ValueError, match="at least 1"):
        map_files(work, [], workers=0)
    pytest.importorskip("distributed")
    with pytest.raises(RawkitError, match="no Dask scheduler"):
        list(map_files(work, [1], backend="tcp://127.0.0.1:9?"))


def tell_twice(item, progress):
    progress(1, 2)
    progress(2, 2)
    return os.getpid()


def test_progress_of_a_worker_arrives_here():
    told = []
    with relayed(lambda done, total: told.append((done, total, os.getpid()))) as progress:
        results = list(map_files(partial(tell_twice, progress=progress), [0], workers=1))
    assert results[0].value != os.getpid()
    assert told == [(1, 2, os.getpid()), (2, 2, os.getpid())]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux")
def test_a_result_that_is_too_large_to_hand_over_costs_its_file():
    """300 MB fit within 500 MB, a second copy to send does not."""
    results = list(map_files(bytes, [3 * 10**8, 8], workers=1, limits=Limits(memory=5 * 10**8)))
    assert "not enough memory" in results[0].error
    assert results[1].value == bytes(8)


def leave_slowly(folder, item):
    """At work for ever; ``item`` is the time that it needs to put things in order when it is ended."""
    if item == 0:
        return
    try:
        (folder / f"{item} begun").write_text("")
        time.sleep(600)
    finally:
        time.sleep(item)
        (folder / f"{item} in order").write_text("")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_is_ended_puts_its_files_in_order(tmp_path):
    """A run that is given up asks every worker to end, and again when it waits for it: that must not break off what
    the first request began.  The worker of 0.3 s is waited for first, while the other one is still at it."""
    results = map_files(partial(leave_slowly, tmp_path), [0, 0, 0.3, 1.5], workers=2)
    assert [next(results).error, next(results).error] == [None, None]  # now each worker has one of the others
    deadline = time.monotonic() + 60
    while len([*tmp_path.glob("* begun")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    results.close()
    assert sorted(path.name for path in tmp_path.glob("* in order")) == ["0.3 in order", "1.5 in order"]


INTERRUPTED_AT_START = """
import os, signal, sys
if any("spawn_main" in word for word in sys.orig_argv):
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_leaves_ctrl_c_to_its_parent_from_its_first_moment(tmp_path):
    """An interrupt from the terminal reaches all processes; one that still starts says nothing about it, and works."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AT_START)
    code = "from rawkit.parallel import map_files; print([r.value for r in map_files(float, ['1', '2'], workers=1)])"
    paths = os.pathsep.join(map(str, (tmp_path, Path(__file__).parent.parent)))
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (run.stdout, run.stderr) == ("[1.0, 2.0]\n", "")


def test_errors_of_the_system_name_the_file_and_the_reason(tmp_path):
    (result,) = map_files(open, [tmp_path / "none.dng"], workers=1)
    assert result.error == f"{tmp_path / 'none.dng'}: No such file or directory"
