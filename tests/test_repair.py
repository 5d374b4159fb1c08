"""Defective pixels: which of a profile's matter in a picture, what they become, and that the command does it."""

import json
import sys
from subprocess import run

import numpy as np
import pytest
from test_measured import plain

from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.restore.repair import known_defects, repair
from rawkit.sensor.defects import DEFECT_DTYPE
from rawkit.sensor.params import NoiseParams

SHAPE = (24, 32)


def test_defective_pixels_take_their_neighbors_value():
    rng = np.random.default_rng(1)
    mosaic = rng.normal(100, 1, (20, 20)).astype(np.float32)
    broken = mosaic.copy()
    where = np.array([[0, 0], [7, 9], [7, 11], [19, 19]])
    broken[tuple(where.T)] = 5000
    out = repair(broken, where, (2, 2))
    assert np.abs(out[tuple(where.T)] - 100).max() < 4
    untouched = np.ones_like(mosaic, bool)
    untouched[tuple(where.T)] = False
    assert np.array_equal(out[untouched], mosaic[untouched])
    with pytest.raises(ValueError, match="another sensor"):
        repair(mosaic, np.array([[20, 0]]), (2, 2))


@pytest.mark.parametrize(
    ("level", "expected"),
    # noise at level x: sqrt(1.5 x + 4): 2 DN in the dark, 39 DN at 1000, 89 DN at 5200
    [(0.0, ["dead", "hot", "telegraph"]), (1000.0, ["dead", "hot"]), (5200.0, ["dead"])],
)
def test_only_what_exceeds_the_noise_is_repaired(level, expected):
    defects = np.array([(9, 8, "dead", 0.1), (3, 5, "hot", 60.0), (12, 7, "telegraph", 25.0)], DEFECT_DTYPE)
    profile = plain(SHAPE, defects=defects)
    image = RawImage(
        raster=np.full(SHAPE, level, np.float32),
        cfa=CFA.bayer("GRBG"),
        black=BlackLevel.constant(0.0),
        white_level=16000.0,
        metadata=Metadata(iso=800),
    )
    found = known_defects(image, NoiseParams(1.5, 4.0), profile)
    wanted = sorted((int(d["row"]), int(d["column"])) for d in defects if d["kind"] in expected)
    assert [tuple(place) for place in found] == wanted


def test_the_command_repairs_what_the_profile_knows(tmp_path):
    defects = np.array([(9, 8, "hot", 900.0)], DEFECT_DTYPE)
    plain(SHAPE, defects=defects).save(tmp_path / "camera.json")
    rng = np.random.default_rng(2)
    stored = rng.normal(600, 2, SHAPE)
    stored[9, 8] += 900
    image = RawImage(
        raster=np.round(stored).astype(np.uint16),
        cfa=CFA.bayer("RGGB"),
        black=BlackLevel.constant(512.0),
        white_level=4095.0,
        metadata=Metadata(make="", model="simulated", iso=800),
    )
    write_dng(image, tmp_path / "a.dng")
    command = [sys.executable, "-m", "rawkit.cli", "denoise", tmp_path / "a.dng", "--profile", tmp_path / "camera.json"]
    done = run([*map(str, command), "-o", str(tmp_path), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["files"][0]
    assert any("1 pixels repaired" in note for note in told["notes"]), told
    clean = read_raw(tmp_path / "a_denoised.dng")
    scale = (clean.white_level - clean.black_level[0]) / (4095 - 512)
    assert abs(clean.signal()[9, 8] / scale - 88) < 5  # the noise is 2 DN
