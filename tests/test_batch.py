"""Batches: finished files stay, broken ones are named, and a killed run resumes to the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from make_dng import write
from synthetic import expose

from rawkit.batch import (
    RECORD_NAME,
    Job,
    append_record,
    find_inputs,
    read_records,
    run_jobs,
)
from rawkit.errors import UnsupportedRawError
from rawkit.parallel import Limits, last, map_files
from rawkit.restore.files import DenoiseSettings, denoise_file

PHASES = ("RGGB", "BGGR", "GRBG", "GBRG")


def copy_upper(source, target, *, write):
    """Upper-cases a text; the text itself may order an accident."""
    text = source.read_text()
    if text.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("hang"):
        time.sleep(600)
    if text.startswith("odd"):
        return {"never": {}[text]}
    if text.startswith("bad"):
        raise UnsupportedRawError(f"{source}: this is no raw file.")
    if write is not None:
        write.write_text(text.upper())
        if text.startswith("late"):
            os.kill(os.getpid(), signal.SIGKILL)
    return {"length": len(text)}


def jobs_of(folder, texts):
    folder.mkdir(exist_ok=True)
    jobs = []
    for number, text in enumerate(texts):
        source = folder / f"{number}.raw"
        source.write_text(text)
        jobs.append(Job(source, folder.parent / "out" / f"{number}.up"))
    (folder.parent / "out").mkdir(exist_ok=True)
    return jobs


def run(jobs, *, parameters=None, work=copy_upper, **options):
    mapper = options.pop("mapper", partial(map_files, backend="serial"))
    return list(run_jobs(jobs, work, parameters=parameters or {"strength": 1.0}, mapper=mapper, **options))


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != RECORD_NAME}


def test_finished_files_are_left_alone_and_others_say_why(tmp_path):
    jobs = jobs_of(tmp_path / "in", ["a", "b", "c", "d", "e"])
    assert [r["status"] for r in run(jobs)] == ["done"] * 5
    made = {job.target: job.target.stat().st_mtime_ns for job in jobs}
    assert [r["status"] for r in run(jobs)] == ["already done"] * 5
    assert {path: path.stat().st_mtime_ns for path in made} == made
    other = run(jobs[:1], parameters={"strength": 0.5})
    assert other[0]["status"] == "skipped"
    assert "strength 1.0 instead of 0.5" in other[0]["reason"]
    jobs[1].source.write_text("new")
    jobs[2].target.write_text("edited")
    jobs[3].target.unlink()
    (tmp_path / "out" / RECORD_NAME).write_text(
        "".join(s for s in (tmp_path / "out" / RECORD_NAME).open() if "4.up" not in s)
    )
    results = run(jobs)
    assert [r["status"] for r in results] == ["already done", "skipped", "skipped", "done", "skipped"]
    assert "another 1.raw" in results[1]["reason"]
    assert "changed since" in results[2]["reason"]
    assert "exists" in results[4]["reason"]
    assert [r["status"] for r in run(jobs, overwrite=True)] == ["done"] * 5
    assert jobs[2].target.read_text() == "C"


def test_two_inputs_never_share_an_output(tmp_path):
    jobs = jobs_of(tmp_path / "in", ["a", "b"])
    results = run([jobs[0], Job(jobs[1].source, jobs[0].target)])
    assert [r["status"] for r in results] == ["done", "failed"]
    assert "also that of" in results[1]["reason"]
    assert jobs[0].target.read_text() == "A"


def test_a_record_cut_by_a_crash_does_not_spoil_the_next(tmp_path):
    jobs = jobs_of(tmp_path / "in", ["a", "b"])
    run(jobs[:1])
    record = tmp_path / "out" / RECORD_NAME
    record.write_bytes(record.read_bytes()[:-20])
    run(jobs[1:])
    assert set(read_records(tmp_path / "out")) == {"1.up"}
    append_record(tmp_path / "out", read_records(tmp_path / "out")["1.up"])
    assert len(record.read_text().splitlines()) == 3


@pytest.mark.parametrize("change", [{"output": []}, {"parameters": 5}, {"parameters": [["strength"]]}])
def test_a_record_that_no_run_wrote_is_passed_over(tmp_path, change):
    jobs = jobs_of(tmp_path / "in", ["a"])
    run(jobs)
    record = tmp_path / "out" / RECORD_NAME
    made = json.loads(record.read_text())
    record.write_text("[" * 100_000 + "\n" + json.dumps({**made, **change}) + "\n")
    assert read_records(tmp_path / "out") == {}
    assert [r["status"] for r in run(jobs)] == ["skipped"]


def test_accidents_cost_their_own_files(tmp_path):
    """A crash, a crash after writing, a hang, a mistake of ours and a bad file, amid good ones, on two workers."""
    texts = ["a", "kill", "b", "hang", "late", "odd", "c", "bad", "d"]
    jobs = jobs_of(tmp_path / "in", texts)
    mapper = partial(map_files, workers=2, limits=Limits(seconds=3.0))
    results = run(jobs, mapper=mapper)
    assert [r["status"] == "done" for r in results] == [len(text) == 1 for text in texts]
    reasons = {text: r["reason"] for text, r in zip(texts, results, strict=True) if r["status"] == "failed"}
    assert "died twice" in reasons["kill"]
    assert "died twice" in reasons["late"]
    assert "limit" in reasons["hang"]
    assert "KeyError" in reasons["odd"]
    assert "test_batch.py" in reasons["odd"]
    assert reasons["bad"].endswith("this is no raw file.")
    whole = {job.target.name for job, text in zip(jobs, texts, strict=True) if len(text) == 1}
    assert set(contents(tmp_path / "out")) == whole


def test_inputs_of_folders_and_patterns(tmp_path):
    for name in ("a.dng", "b.NEF", "c.jpg", ".hidden.dng", "a_denoised.dng", "sub/d.dng", ".sub/e.dng"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    run([Job(tmp_path / "a.dng", tmp_path / "x_denoised.dng")])
    names = [i.path.name for i in find_inputs([tmp_path])]
    assert names == ["a.dng", "a_denoised.dng", "b.NEF"]  # x_denoised.dng is in the record
    found = find_inputs([tmp_path], recursive=True)
    assert [(i.path.name, str(i.subfolder)) for i in found][-1] == ("d.dng", "sub")
    assert [i.path.name for i in find_inputs([tmp_path / "a*.dng", tmp_path / "a.dng"])] == ["a.dng", "a_denoised.dng"]
    with pytest.raises(ValueError, match="not there"):
        find_inputs([tmp_path / "z*.dng"])
    with pytest.raises(ValueError, match="holds no files of"):
        find_inputs([_empty(tmp_path)])
    with pytest.raises(ValueError, match="fits folders only"):
        find_inputs([tmp_path / "su*"])


def _empty(folder):
    path = folder / "empty"
    path.mkdir()
    return path


# ------------------------------------------------------------------------------------------------- the command


def rawkit(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rawkit.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )


OPTIONS = ("--camera", "Sony ILCE-7SM2", "--iso", 800, "--black-level", 512, "--white-level", 16383)
CLASSICAL = ("--model", "classical")  # starts without PyTorch


def shoot(folder, count, *, start=0):
    """Small noisy DNGs, one Bayer phase after the other."""
    folder.mkdir(exist_ok=True)
    electrons = np.tile(np.linspace(0, 2000, 64), (48, 1))
    for number in range(start, start + count):
        raster = expose(electrons, system_gain=0.765, read_noise=3.6, rng=np.random.default_rng(number))
        write(folder, raster.astype(np.uint16), f"{number:02d}.dng", cfa=PHASES[number % 4])


def break_files(folder):
    """Every fifth file broken in a way of its own."""
    whole = (folder / "00.dng").read_bytes()
    bad = {
        "04.dng": whole[: len(whole) // 2],
        "09.dng": b"",
        "14.dng": b"this is a letter, not a picture\n" * 40,
        "19.dng": whole.replace((48).to_bytes(4, "little"), (4_000_000_000).to_bytes(4, "little")),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    return sorted(bad)


def test_twenty_files_of_which_four_are_broken(tmp_path):
    shoot(tmp_path / "in", 20)
    bad = break_files(tmp_path / "in")
    arguments = ("denoise", tmp_path / "in", "-o", tmp_path / "out", *OPTIONS, *CLASSICAL, "--workers", 2)
    first = rawkit(*arguments, "--log", tmp_path / "log.jsonl")
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "16 denoised, 0 skipped, 4 failed" in first.stdout
    for name in bad:
        assert sum(name in line for line in first.stderr.splitlines()) == 1, first.stderr
    made = contents(tmp_path / "out")
    assert set(made) == {f"{n:02d}_denoised.dng" for n in range(20) if f"{n:02d}.dng" not in bad}
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [Path(line["input"]).name for line in log] == [f"{n:02d}.dng" for n in range(20)]
    assert [line["status"] == "failed" for line in log] == [f"{n:02d}.dng" in bad for n in range(20)]
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.dng")}
    second = rawkit(*arguments, "--json")
    assert second.returncode == 1
    counts = json.loads(second.stdout)
    assert (counts["done"], counts["already_done"], counts["skipped"], counts["failed"]) == (0, 16, 0, 4)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.dng")} == times
    for name in bad:
        (tmp_path / "in" / name).unlink()
    assert rawkit(*arguments).returncode == 0


@pytest.fixture(scope="module")
def a_dozen(tmp_path_factory):
    """Twelve files, and what an uninterrupted run in this process makes of them."""
    folder = tmp_path_factory.mktemp("dozen")
    shoot(folder / "in", 12)
    (folder / "straight").mkdir()
    reading = {"iso": 800, "black_level": 512.0, "white_level": 16383.0, "cfa": None, "mosaic": None}
    settings = DenoiseSettings(camera="Sony ILCE-7SM2", reading=reading)
    for source in sorted((folder / "in").iterdir()):
        target = folder / "straight" / f"{source.stem}_denoised.dng"
        last(denoise_file(source, target, settings, write=target))
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_leaves_whole_files_and_resumes_to_the_same_bytes(a_dozen, tmp_path, number):
    arguments = [str(a) for a in ("denoise", a_dozen / "in", *OPTIONS, *CLASSICAL, "-o")]
    truth = contents(a_dozen / "straight")
    command = [sys.executable, "-m", "rawkit.cli", *arguments, str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while len(list((tmp_path / "out").glob("*_denoised.dng"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    visible = {name: digest for name, digest in contents(tmp_path / "out").items() if name[0] != "."}
    assert 2 <= len(visible) < 12
    assert visible.items() <= truth.items()
    if number == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert "interrupted; files that were finished are whole" in stderr
        assert "Traceback" not in stderr
        assert set(contents(tmp_path / "out")) == set(visible)  # nothing half-written, not even hidden
    resumed = rawkit(*arguments, tmp_path / "out", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["already_done"] >= len(visible)
    assert contents(tmp_path / "out") == truth


def test_synthesis_is_a_batch_too(a_dozen, tmp_path):
    """Folders, photographs, bad files, workers and resumption, as for denoising."""
    import imagecodecs

    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("00.dng", "01.dng"):
        (tmp_path / "in" / name).write_bytes((a_dozen / "in" / name).read_bytes())
    gradient = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    (tmp_path / "in" / "deep" / "photo.jpg").write_bytes(imagecodecs.jpeg8_encode(gradient))
    (tmp_path / "in" / "empty.dng").write_bytes(b"")
    arguments = ["synthesize", tmp_path / "in", *OPTIONS[:2], "--iso", 3200, "--black-level", 512, "--white-level",
                 16383, "--recursive", "-o", tmp_path / "out"]  # fmt: skip
    first = rawkit(*arguments, "--workers", 2, "--log", tmp_path / "log.jsonl")
    assert first.returncode == 1, first.stderr
    assert "3 made, 0 skipped, 1 failed" in first.stdout
    assert "empty.dng: the file is empty" in first.stderr
    made = [tmp_path / "out" / f"{name}_iso3200_seed0.dng" for name in ("00", "01", "deep/photo")]
    assert all(path.is_file() for path in made)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4
    truth = [path.read_bytes() for path in made]
    made[1].unlink()
    (tmp_path / "in" / "empty.dng").unlink()
    second = rawkit(*arguments, "--json")
    assert second.returncode == 0, second.stderr
    assert [json.loads(second.stdout)[key] for key in ("done", "already_done")] == [1, 2]
    assert [path.read_bytes() for path in made] == truth
    other = rawkit(*arguments, "--black-level", 500, "--json")
    assert other.returncode == 3
    assert "black_level 512.0 instead of 500.0" in json.loads(other.stdout)["files"][0]["reason"]


DEADLY = """
import os, signal
import rawkit.raw.read as module
whole = module.read_raw
def read_raw(path, **options):
    if "deadly" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, **options)
module.read_raw = read_raw
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_calibration_names_the_frame_that_kills_its_decoder(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parent.parent)]))
    shoot(tmp_path / "frames", 2)
    (tmp_path / "frames" / "00.dng").rename(tmp_path / "frames" / "deadly.dng")
    run = rawkit("calibrate", tmp_path / "frames", "-o", tmp_path / "profile.json")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "died twice" in run.stderr
    assert "it does so with deadly.dng: take that away" in run.stderr
    assert not (tmp_path / "profile.json").exists()


def test_a_dask_cluster_gives_the_same_bytes(a_dozen, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        run = rawkit(
            "denoise",
            a_dozen / "in",
            *OPTIONS,
            *CLASSICAL,
            "-o",
            tmp_path / "dask",
            "--cluster",
            cluster.scheduler_address,
        )
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path / "dask") == contents(a_dozen / "straight")
