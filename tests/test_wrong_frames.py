"""A folder of wrong frames, end to end: the rest is calibrated, and each file left out is named with its reason."""

import json

import numpy as np
import pytest
from make_dng import write
from PIL import Image
from synthetic import expose
from test_cli import rawkit

from rawkit.raw.tiff import LONG, RATIONAL, SHORT, Entry

SHAPE = (96, 128)
BLACK, WHITE = 512.0, 16383.0
TRUTH = {100: (0.5, 3.0), 400: (2.0, 6.0)}  # ISO: K [DN/e-], read noise [DN]
LEVELS = (500.0, 1500.0, 3000.0, 5000.0, 7000.0)  # DN
SATURATED = 25000.0


def shoot(folder, name, rng, *, iso, level=0.0, exposure=0.01, labelled=None, shape=SHAPE, leak=0.0, tags=()):
    """One DNG of a camera with the noise of ``iso``; its metadata say ``labelled``, if that is given."""
    gain, read_noise = TRUTH[iso]
    light = np.full(shape, level / gain) + leak / gain * np.linspace(0, 2, shape[1])
    pixels = expose(light, system_gain=gain, read_noise=read_noise, black=BLACK, white=WHITE, rng=rng)
    tags = [
        *tags,
        Entry.make(34855, SHORT, labelled or iso),
        Entry.make(33434, RATIONAL, [(round(exposure * 1e4), 10000)]),
        Entry.make(50714, SHORT, int(BLACK)),
        Entry.make(50717, SHORT, int(WHITE)),
    ]
    return write(folder, pixels, name, raw_tags=tags)


def shoot_good(folder, seed=0):
    """Darks and flats of two ISOs, two frames a level."""
    rng = np.random.default_rng(seed)
    for iso in TRUTH:
        for i in range(8):
            shoot(folder, f"dark_{iso}_{i}.dng", rng, iso=iso)
        for step, level in enumerate(LEVELS):
            for i in range(2):
                shoot(folder, f"flat_{iso}_{step}_{i}.dng", rng, iso=iso, level=level, exposure=0.01 * (step + 1))


def shoot_wrong(folder):
    """What goes wrong in practice, and the words that have to be in each file's reason."""
    rng = np.random.default_rng(99)
    said = {}

    def add(name, words, **options):
        shoot(folder, name, rng, **options)
        said[name] = words

    add("dark_100_leak.dng", "light leaked in", iso=100, leak=60.0)
    for i in range(2):  # both frames of a pair: no level differs inside it
        add(f"dark_400_leak_{i}.dng", "light leaked in", iso=400, leak=30.0)
        add(f"flat_mislabelled_{i}.dng", "mislabelled ISO", iso=400, labelled=100, level=2000.0, exposure=0.025)
        add(f"dark_mislabelled_{i}.dng", "mislabelled ISO", iso=400, labelled=100)
        add(f"flat_100_saturated_{i}.dng", "saturated", iso=100, level=SATURATED, exposure=0.1)
    add("flat_stray.dng", "ISO 800 could not be calibrated", iso=400, labelled=800, level=3000.0)
    add("flat_100_small.dng", "its size, 96x64, differs", iso=100, level=1500.0, shape=(64, 96), exposure=0.02)
    beyond = Entry.make(273, LONG, 2 * SHAPE[0] * SHAPE[1] - 100)  # the pixels begin 100 bytes before the file ends
    add("flat_100_short.dng", "", iso=100, level=1500.0, exposure=0.02, tags=[beyond])
    add("flat_100_half.dng", "damaged or cut", iso=100, level=1500.0, exposure=0.02)
    half = folder / "flat_100_half.dng"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])  # without its directory, which is at the end
    exif = Image.Exif()
    exif[34855] = 100
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(folder / "flat_100_0_0.jpg", exif=exif)
    said["flat_100_0_0.jpg"] = "JPEG"
    (folder / "notes.txt").write_text("frames shot on Sunday")
    said["notes.txt"] = "not a raw file"
    return said


def calibrated(folder, output):
    run = rawkit("calibrate", folder, "-o", output, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The clean folder, the same with wrong frames among them, and what has to be said of those."""
    clean, wrong = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("wrong")
    out = tmp_path_factory.mktemp("out")
    shoot_good(clean)
    shoot_good(wrong)
    said = shoot_wrong(wrong)
    return calibrated(clean, out / "clean.json"), calibrated(wrong, out / "wrong.json"), said, wrong


def test_every_wrong_file_is_named_with_its_reason_and_no_other(results):
    clean, wrong, said, _ = results
    assert clean["left_out"] == []
    found = {path.rpartition("/")[2]: why for path, why in wrong["left_out"]}
    assert set(found) == set(said)
    for name, words in said.items():
        assert words in found[name], (name, found[name])
        assert "\n" not in found[name]


def test_the_rest_gives_the_numbers_of_the_clean_folder(results):
    """The same frames are used, so the numbers are the same; the seed is, too."""
    clean, wrong, _, _ = results
    for a, b in zip(clean["noise"], wrong["noise"], strict=True):
        assert a["iso"] == b["iso"]
        for name in ("system_gain", "read_var"):
            error = np.hypot(a[name + "_se"], b[name + "_se"])
            assert (np.abs(np.subtract(a[name], b[name])) < 0.1 * error).all(), (a["iso"], name)
        gain, read_noise = TRUTH[a["iso"]]
        assert (np.abs(np.array(a["system_gain"]) - gain) < 4 * np.array(a["system_gain_se"])).all()
        assert (np.abs(np.array(a["read_var"]) - read_noise**2 - 1 / 12) < 4 * np.array(a["read_var_se"])).all()


def test_without_json_each_is_a_line(results, tmp_path):
    _, _, said, folder = results
    run = rawkit("calibrate", folder, "-o", tmp_path / "p.json", "--no-spatial")
    lines = run.stdout.splitlines()
    for name in said:
        assert any(line.startswith(f"left out: {name}: ") for line in lines), name


def test_a_folder_of_nothing_but_wrong_frames_is_refused_in_one_line(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "dark.jpg")
    run = rawkit("calibrate", tmp_path, "-o", tmp_path / "p.json")
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert "dark.jpg" in run.stderr
