"""Data sets: the same bytes however they are made, and a manifest that is right whatever happens."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rawkit.errors import MetadataError, OutputExistsError, RawkitError
from rawkit.noise import datasets
from rawkit.noise.datasets import FORMATS, Dataset, pair_seed, read_manifest, write_dataset
from rawkit.noise.export import SimulatedCamera
from rawkit.parallel import map_files
from rawkit.raw.read import read_raw
from rawkit.resources import sha256

CAMERA = SimulatedCamera(camera="Sony ILCE-7SM2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three clean photographs, one of them in a folder of its own."""
    from imagecodecs import imwrite

    folder = tmp_path_factory.mktemp("clean")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "more/a.png"):
        imwrite(folder / name, rng.integers(0, 256, (48, 64, 3), np.uint8))
    return folder


def dataset(folder, format, **options):
    return Dataset(folder=folder, **({"isos": (800.0, 3200.0), "count": 2, "camera": CAMERA, "format": format,
                                      "pairs_per_file": 4} | options))  # fmt: skip


def contents(folder):
    """Every file's bytes by its name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_settings_give_the_same_bytes(pictures, tmp_path, format):
    if format == "hdf5":
        pytest.importorskip("h5py")
    for name in ("one", "other"):
        outcome = write_dataset(dataset(pictures, format), tmp_path / name)
        assert outcome.complete
        assert outcome.units == (3 if format in ("hdf5", "webdataset") else 3 + 3 * 2 * 2)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert one == other
    header, *records = read_manifest(tmp_path / "one" / "manifest.jsonl")
    assert header["complete"]
    for record in records:
        assert sha256(tmp_path / "one" / record["file"]) == record["sha256"]
    assert write_dataset(dataset(pictures, format), tmp_path / "one").made == 0


def test_workers_and_shards_change_nothing(pictures, tmp_path):
    write_dataset(dataset(pictures, "npz"), tmp_path / "serial")
    parallel = partial(map_files, backend="processes", workers=2)
    write_dataset(dataset(pictures, "npz"), tmp_path / "parallel", mapper=parallel)
    assert contents(tmp_path / "serial") == contents(tmp_path / "parallel")
    for i in (1, 2, 3):
        assert write_dataset(dataset(pictures, "npz", shard=(i, 3)), tmp_path / "shards").complete
    files = {k: v for k, v in contents(tmp_path / "shards").items() if k.endswith(".npz")}
    assert files == {k: v for k, v in contents(tmp_path / "serial").items() if k.endswith(".npz")}
    lists = "".join(p.read_text() for p in (tmp_path / "shards").glob("pairs-*.txt"))
    assert sorted(lists.splitlines()) == sorted((tmp_path / "serial" / "pairs.txt").read_text().splitlines())


def test_noise_belongs_to_content_iso_and_number(pictures, tmp_path):
    """A renamed picture and a longer list keep their noise; other seeds, ISOs and numbers do not share it."""
    whole = tmp_path / "whole"
    write_dataset(dataset(pictures, "npz"), whole)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "renamed.png").write_bytes((pictures / "b.png").read_bytes())
    write_dataset(dataset(tmp_path / "few", "npz", isos=(3200.0,)), tmp_path / "part")
    before, after = whole / "short" / "b_iso3200_s001.npz", tmp_path / "part" / "short" / "renamed_iso3200_s001.npz"
    assert np.array_equal(np.load(before)["im"], np.load(after)["im"])
    noisy = {p.stem: np.load(p)["im"] for p in (whole / "short").glob("b_*.npz")}
    assert len(noisy) == 4
    clean = np.load(whole / "long" / "b.npz")["im"]
    shown = [(v - clean).ravel() for v in noisy.values()]
    assert np.abs(np.corrcoef(shown) - np.eye(4)).max() < 5 / np.sqrt(clean.size)
    assert pair_seed(0, sha256(pictures / "b.png"), 3200) == next(
        p["seed"]
        for r in read_manifest(whole / "manifest.jsonl")[1:]
        for p in r["pairs"]
        if p["key"] == "b_iso3200_s001"
    )


def test_npz_has_the_keys_of_low_light_loaders(pictures, tmp_path):
    write_dataset(dataset(pictures, "npz", isos=(800.0,), count=1), tmp_path)
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert len(lines) == 3
    short, long = (np.load(tmp_path / part) for part in lines[0].split())
    assert short["im"].shape == (4, 24, 32)
    assert short["im"].dtype == np.uint16
    assert short["black_level"].shape == (4, 1, 1)
    assert short["phases"].tolist() == ["R", "Gr", "B", "Gb"]
    assert short["wb"].shape == (4,)
    assert short["ccm"].sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)  # white stays white
    # The noise around the clean picture is that of the profile: K 0.765 DN/e-, read noise 3.6 DN.
    residual = short["im"].astype(float) - long["im"]
    expected = 0.765 * (long["im"] - long["black_level"]).mean() + 3.6**2
    assert residual.var() == pytest.approx(expected, rel=0.1)


def test_every_format_holds_the_same_mosaic(pictures, tmp_path):
    import tifffile

    h5py = pytest.importorskip("h5py")
    for format in FORMATS:
        write_dataset(dataset(pictures, format, count=1), tmp_path / format)
    key = "b_iso800_s000"
    dng = read_raw(tmp_path / "dng" / "short" / f"{key}.dng")
    assert dng.iso == 800
    mosaic = dng.mosaic
    tiff = tifffile.TiffFile(tmp_path / "tiff" / "short" / f"{key}.tif")
    assert np.array_equal(tiff.asarray(), mosaic)
    assert json.loads(tiff.pages[0].description)["cfa"] == "RGGB"
    with h5py.File(tmp_path / "hdf5" / "part-000000.h5") as file:
        assert np.array_equal(file[key]["noisy"], mosaic)
        clean = np.array(file[key]["clean"])
    with tarfile.open(tmp_path / "webdataset" / "part-000000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == [f"a_iso800_s000.{part}" for part in ("noisy.npy", "clean.npy", "json")]
        assert np.array_equal(np.load(io.BytesIO(tar.extractfile(f"{key}.noisy.npy").read())), mosaic)
    # A clean DNG keeps two bits below one DN: its codes are four times those of the noisy one, rounded.
    stored = read_raw(tmp_path / "dng" / "long" / "b.dng")
    assert stored.white_level == 4 * dng.white_level
    assert np.abs(stored.signal() / 4 - (clean - dng.black_level[0])).max() <= 0.5 / 4 + 1e-3


def test_a_killed_run_is_finished_with_the_same_bytes(pictures, tmp_path):
    """SIGKILL in the middle of the run; the same command again gives what an uninterrupted run gives."""
    clean = tmp_path / "clean"
    clean.mkdir()
    rng = np.random.default_rng(1)
    for number in range(4):
        np.save(clean / f"scene{number}.npy", rng.integers(600, 16000, (400, 400)).astype(np.uint16))
        sidecar = {"cfa": "RGGB", "black_level": 512, "white_level": 16383}
        (clean / f"scene{number}.npy.json").write_text(json.dumps(sidecar))
    options = ("--camera", CAMERA.camera, "--iso", "800,3200", "--count", "8", "--format", "dng", "--workers", "2")
    command = [sys.executable, "-m", "rawkit.cli", "synthesize", str(clean), *options, "-o", str(tmp_path / "killed")]
    killed = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("*/*.dng"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = list((tmp_path / "killed").glob("*/*.dng"))
    assert 5 <= len(before) < 4 + 4 * 2 * 8
    header, *records = read_manifest(tmp_path / "killed" / "manifest.jsonl")
    assert not header["complete"]
    assert len(records) == 4 + 4 * 2 * 8
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert write_dataset(dataset(clean, "dng", count=8, pairs_per_file=32), tmp_path / "whole").complete
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_full_disk_leaves_a_valid_manifest_and_says_what_is_missing(pictures, tmp_path, monkeypatch):
    plan = dataset(pictures, "npz")
    write, left = datasets._WRITERS["npz"], [4]

    def until_full(path, unit, plan):
        if not left[0]:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return write(path, unit, plan)

    monkeypatch.setitem(datasets._WRITERS, "npz", until_full)
    outcome = write_dataset(plan, tmp_path / "full")
    assert "full" in outcome.stopped
    assert (outcome.done, len(outcome.missing), outcome.failed) == (4, 11, ())
    header, *records = read_manifest(tmp_path / "full" / "manifest.jsonl")
    assert header["done"] == 4
    assert [r["status"] for r in records].count("missing") == 11
    assert not list((tmp_path / "full").rglob("*.part"))
    monkeypatch.undo()
    assert write_dataset(plan, tmp_path / "full").complete
    write_dataset(plan, tmp_path / "whole")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


@pytest.mark.parametrize("format", ["npz", "webdataset"])
def test_a_bad_picture_is_named_and_mended_later(pictures, tmp_path, format):
    clean = tmp_path / "clean"
    clean.mkdir()
    good = (pictures / "a.png").read_bytes()
    (clean / "good.png").write_bytes(good)
    (clean / "bad.png").write_bytes(good[:100])
    outcome = write_dataset(dataset(clean, format), tmp_path / "set")
    assert not outcome.complete
    assert outcome.stopped is None
    assert outcome.failed
    assert all("bad" in name for name, _ in outcome.failed)
    header, *_ = read_manifest(tmp_path / "set" / "manifest.jsonl")
    assert not header["complete"]
    (clean / "bad.png").write_bytes((pictures / "b.png").read_bytes())
    assert write_dataset(dataset(clean, format), tmp_path / "set").complete
    write_dataset(dataset(clean, format), tmp_path / "whole")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_damage_is_found(pictures, tmp_path):
    plan = dataset(pictures, "npz")
    write_dataset(plan, tmp_path)
    shortened, changed = sorted((tmp_path / "short").iterdir())[:2]
    whole = shortened.read_bytes(), changed.read_bytes()
    shortened.write_bytes(whole[0][:-1])
    changed.write_bytes(whole[1][:-1] + bytes([whole[1][-1] ^ 1]))
    assert write_dataset(plan, tmp_path).made == 1
    assert write_dataset(plan, tmp_path, verify=True).made == 1
    assert (shortened.read_bytes(), changed.read_bytes()) == whole


def test_other_settings_do_not_mix(pictures, tmp_path):
    write_dataset(dataset(pictures, "npz"), tmp_path)
    with pytest.raises(OutputExistsError, match=r"other settings .*seed"):
        write_dataset(dataset(pictures, "npz", seed=1), tmp_path)
    (tmp_path / "manifest.jsonl").unlink()
    with pytest.raises(OutputExistsError, match="no manifest"):
        write_dataset(dataset(pictures, "npz"), tmp_path)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(MetadataError, match="not a data-set manifest"):
        write_dataset(dataset(pictures, "npz"), tmp_path)


def test_leftovers_of_a_killed_worker_are_swept(pictures, tmp_path):
    plan = dataset(pictures, "npz", shard=(1, 2))
    units = plan.units(plan.sources())
    others = dataset(pictures, "npz", shard=(2, 2)).units(plan.sources())
    ours, theirs = ((tmp_path / u[0].file).with_name(f".{Path(u[0].file).name}.77.part") for u in (units, others))
    for path in (ours, theirs):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    write_dataset(plan, tmp_path)
    assert not ours.exists()
    assert theirs.exists()  # of another shard, which may be running


def test_misuse_is_explained(pictures, tmp_path):
    for options in ({"isos": ()}, {"isos": (100.0, 100.0)}, {"count": 0}, {"shard": (3, 2)}, {"seed": -1}):
        with pytest.raises(ValueError, match="needed"):
            dataset(pictures, "npz", **options)
    with pytest.raises(ValueError, match="format"):
        dataset(pictures, "zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RawkitError, match="no pictures"):
        write_dataset(dataset(tmp_path / "empty", "npz"), tmp_path / "out")
