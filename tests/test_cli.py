"""The command line as a user meets it: one-line errors, exit codes, machine-readable output."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import expose

from rawkit.devices import _could_have_gpu
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.resources import bundled_profiles

CLASSICAL = ("--model", "classical")  # starts without PyTorch


def rawkit(*arguments, cwd=None, env=None):
    command = [sys.executable, "-m", "rawkit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


def one_line(run, code):
    """The error a user may see: the exit code, one line on stderr, no traceback."""
    assert run.returncode == code, run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("rawkit: ")
    return lines[0]


@pytest.fixture(scope="module")
def dng(tmp_path_factory):
    """A noisy Bayer DNG of a bundled camera with a ramp in it."""
    rng = np.random.default_rng(0)
    electrons = np.tile(np.linspace(0, 2000, 96), (64, 1))
    image = RawImage(
        raster=expose(electrons, system_gain=0.765, read_noise=3.6, rng=rng), cfa=CFA.bayer("RGGB"),
        black=BlackLevel.constant(512), white_level=16383.0,
        metadata=Metadata(make="SONY", model="ILCE-7SM2", iso=800.0, as_shot_neutral=(0.5, 1.0, 0.6)),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("dng") / "ramp.dng"
    write_dng(image, path)
    return path


def test_gain_converts():
    run = rawkit("gain", "6400", "--json")
    assert json.loads(run.stdout) == pytest.approx({"iso": 6400, "multiple": 64, "db": 36.1236, "stops": 6}, rel=1e-5)
    assert "64x = 36.12 dB = 6 stops" in rawkit("gain", "6400").stdout
    assert json.loads(rawkit("gain", "--db", "36.1235994797", "--base-iso", "160", "--json").stdout)[
        "iso"
    ] == pytest.approx(10240)
    assert json.loads(rawkit("gain", "--multiple", "64", "--json").stdout)["stops"] == 6
    assert "exactly one" in one_line(rawkit("gain"), 2)
    assert "positive" in one_line(rawkit("gain", "--", "-100"), 2)


def test_inspect_tells_levels_and_noise(dng):
    facts = json.loads(rawkit("inspect", dng, "--json").stdout)
    assert facts["cfa"] == "RGGB"
    assert facts["iso"] == 800
    assert facts["white_level"] == 16383
    assert facts["noise"]["source"] == "bundled"
    assert facts["noise"]["system_gain"] == pytest.approx([0.76504] * 4)
    text = rawkit("inspect", dng).stdout
    assert "bundled profile" in text
    assert "ILCE-7SM2" in text


def test_inspect_says_how_to_supply_a_missing_iso(tmp_path):
    path = tmp_path / "no_iso.npy"
    np.save(path, np.full((8, 8), 600, np.uint16))
    levels = ("--black-level", 512, "--white-level", 16383, "--cfa", "RGGB")
    text = rawkit("inspect", path, *levels).stdout
    assert "--iso" in text
    assert "--cfa" in one_line(rawkit("inspect", path), 1)
    assert "--black-level" in one_line(rawkit("inspect", path, "--cfa", "RGGB"), 1)
    assert json.loads(rawkit("inspect", path, *levels, "--iso", 800, "--camera", "Sony ILCE-7SM2", "--json").stdout)[
        "noise"
    ]


def test_denoise_writes_a_quieter_raw_beside_the_original(dng, tmp_path):
    from rawkit.raw.read import read_raw

    before = dng.read_bytes()
    run = rawkit("denoise", dng, "-o", tmp_path, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    target = tmp_path / "ramp_denoised.dng"
    assert result["files"][0]["output"] == str(target)
    noisy, clean = read_raw(dng), read_raw(target)
    scale = result["files"][0]["scale"]
    truth = 0.765 * np.tile(np.linspace(0, 2000, 96), (64, 1))
    assert np.std(clean.signal() / scale - truth) < 0.6 * np.std(noisy.signal() - truth)
    assert clean.metadata.noise_reduction_applied == 1.0
    assert clean.metadata.noise_profile is not None
    assert dng.read_bytes() == before
    again = rawkit("denoise", dng, "-o", tmp_path)
    assert again.returncode == 0
    assert "already done" in again.stdout
    other = one_line(rawkit("denoise", dng, "-o", tmp_path, "--strength", 0.5), 3)
    assert "strength 1.0 instead of 0.5" in other
    assert rawkit("denoise", dng, "-o", tmp_path, "--strength", 0.5, "--overwrite").returncode == 0


def test_strength_zero_returns_the_values(dng, tmp_path):
    from rawkit.raw.read import read_raw

    result = json.loads(rawkit("denoise", dng, *CLASSICAL, "-o", tmp_path, "--strength", 0, "--json").stdout)
    again = read_raw(tmp_path / "ramp_denoised.dng")
    assert np.array_equal(again.mosaic, read_raw(dng).mosaic * result["files"][0]["scale"])


def test_dry_run_writes_nothing(dng, tmp_path):
    run = rawkit("denoise", dng, *CLASSICAL, "-o", tmp_path / "new", "--dry-run")
    assert run.returncode == 0
    assert "would write" in run.stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("format", ["linear-dng", "tiff"])
def test_other_formats(dng, tmp_path, format):
    run = rawkit("denoise", dng, *CLASSICAL, "-o", tmp_path, "--format", format)
    assert run.returncode == 0, run.stderr
    assert len([p for p in tmp_path.iterdir() if p.name[0] != "."]) == 1


def test_sidecars_come_along_and_are_not_replaced_unasked(dng, tmp_path):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "shot.dng"
    source.write_bytes(dng.read_bytes())
    source.with_suffix(".xmp").write_text("<edits/>")
    out = tmp_path / "out"
    assert rawkit("denoise", source, *CLASSICAL, "-o", out).returncode == 0
    copied = out / "shot_denoised.xmp"
    assert copied.read_text() == "<edits/>"
    (out / "shot_denoised.dng").unlink()
    copied.write_text("<my own edits/>")
    run = rawkit("denoise", source, *CLASSICAL, "-o", out)
    assert run.returncode == 0
    assert "sidecar not copied" in " ".join(run.stderr.split())
    assert copied.read_text() == "<my own edits/>"


def broken_files(folder, dng):
    whole = dng.read_bytes()
    contents = {
        "empty.dng": b"",
        "truncated.dng": whole[: len(whole) // 2],
        "text.dng": b"this is a letter, not a picture\n" * 20,
        "zeros.dng": bytes(4096),
        "mislabelled.dng": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "header_only.nef": whole[:100],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sorted(contents)


def test_each_broken_file_gets_one_line_and_no_output(dng, tmp_path):
    for name in broken_files(tmp_path, dng):
        for command in ("inspect", "denoise"):
            line = one_line(rawkit(command, tmp_path / name, "--iso", 100), 1)
            assert name in line
    assert sorted(p.name for p in tmp_path.iterdir()) == broken_files(tmp_path, dng)


def test_one_bad_file_does_not_stop_the_others(dng, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    names = broken_files(inputs, dng)
    (inputs / "good.dng").write_bytes(dng.read_bytes())
    run = rawkit("denoise", inputs, *CLASSICAL, "-o", tmp_path / "out")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".rawkit.jsonl", "good_denoised.dng"]
    assert all(any(name in line for line in run.stderr.splitlines()) for name in names)
    assert f"1 denoised, 0 skipped, {len(names)} failed" in run.stdout


def test_usage_errors(tmp_path, dng):
    assert "not there" in one_line(rawkit("inspect", tmp_path / "nowhere.dng"), 2)
    assert "holds no files" in one_line(rawkit("denoise", tmp_path), 2)
    assert "holds no files" in one_line(rawkit("calibrate", tmp_path, "-o", tmp_path / "p.json"), 2)
    assert "--black-level" in one_line(rawkit("inspect", dng, "--black-level", "dark"), 2)
    (tmp_path / "notes.txt").write_text("not a frame")
    one_line(rawkit("calibrate", tmp_path, "-o", tmp_path / "p.json"), 2)
    assert not (tmp_path / "p.json").exists()
    bad = tmp_path / "profile.json"
    bad.write_text("{}")
    assert "not a camera profile" in one_line(rawkit("denoise", dng, "-o", tmp_path / "x", "--profile", bad), 1)
    assert not (tmp_path / "x").exists()
    assert "nonsense" in one_line(rawkit("denoise", dng, "--model", "nonsense"), 1)


def test_synthesize_is_repeatable_and_says_its_noise(dng, tmp_path):
    from skimage import data, io

    from rawkit.raw.read import read_raw

    photo = tmp_path / "coffee.png"
    io.imsave(photo, data.coffee()[:128, :160])
    arguments = ("synthesize", photo, "--camera", "Sony ILCE-7SM2", "--iso", 3200)
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = rawkit(*arguments, "--seed", seed, "-o", tmp_path / folder)
        assert run.returncode == 0, run.stderr
    a, b, c = (read_raw(next((tmp_path / f).glob("*.dng"))) for f in "abc")
    assert np.array_equal(a.mosaic, b.mosaic)
    assert not np.array_equal(a.mosaic, c.mosaic)
    assert a.iso == 3200
    span = a.white_level - a.black_level[0]
    assert a.metadata.noise_profile[0][0] * span == pytest.approx(3.06016, rel=1e-6)
    assert "--iso" in one_line(rawkit("synthesize", photo), 2)


@pytest.mark.parametrize("command", ["inspect", "calibrate", "denoise", "synthesize", "realism", "gain", "demo"])
def test_every_command_has_help_with_an_example(command):
    run = rawkit(command, "--help")
    assert run.returncode == 0
    assert "Example" in run.stdout
    assert "--json" in run.stdout


def test_calibrate_writes_profile_and_report(tmp_path):
    from test_calibrate import shoot_set

    frames = tmp_path / "frames"
    frames.mkdir()
    shoot_set(frames, gain=2.0, read_noise=4.0, seed=1)
    profile, page = tmp_path / "p.json", tmp_path / "r.html"
    run = rawkit("calibrate", frames, "-o", profile, "--report", page, "--emva", "default", "--model", "One", "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["noise"][0]["system_gain"] == pytest.approx([2.0] * 4, rel=0.1)
    assert set(result["emva"]) == {"R", "Gr", "Gb", "B"}
    assert page.read_text().startswith("<!doctype html>")
    assert "exists" in one_line(rawkit("calibrate", frames, "-o", profile), 2)
    shown = json.loads(rawkit("profiles", "show", profile, "--iso", 100, "--json").stdout)
    assert [row["phase"] for row in shown] == ["R", "Gr", "Gb", "B"]
    table = tmp_path / "p.csv"
    assert rawkit("profiles", "export", profile, "--format", "csv", "-o", table).returncode == 0
    again = tmp_path / "again.json"
    assert rawkit("profiles", "import", table, "--format", "csv", "-o", again).returncode == 0
    ratios = json.loads(rawkit("profiles", "compare", profile, again, "--json").stdout)
    assert all(r["gain_ratio"] == pytest.approx(1.0) for r in ratios)
    assert "ISO" in one_line(rawkit("profiles", "export", profile, "--format", "dng"), 2)


def test_estimate_reads_noise_off_a_photograph(tmp_path):
    electrons = np.tile(np.linspace(0, 4000, 640), (512, 1))
    image = RawImage(
        raster=expose(electrons, system_gain=0.765, read_noise=3.6, rng=np.random.default_rng(2)),
        cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(512), white_level=16383.0,
    )  # fmt: skip
    write_dng(image, tmp_path / "ramp.dng")
    found = json.loads(rawkit("estimate", tmp_path / "ramp.dng", "--json").stdout)
    assert found["identifiable"] == [True] * 4
    for gain, (low, high) in zip(found["system_gain"], found["system_gain_interval"], strict=True):
        assert low < gain < high
        assert abs(gain / 0.765 - 1) < 0.05
    assert "K [DN/e-]" in rawkit("estimate", tmp_path / "ramp.dng").stdout


@pytest.mark.parametrize("command", ["denoise", "estimate"])
def test_a_single_file_too_is_decoded_in_a_process_with_limits(dng, tmp_path, command):
    output = ["-o", tmp_path] if command == "denoise" else []
    run = rawkit(command, dng, *output, "--time-limit", "0.001")
    assert "not done after 0.001 s" in one_line(run, 1)
    assert not [p for p in tmp_path.iterdir() if p.name != ".rawkit.jsonl"]


def test_a_mistake_of_ours_is_one_line_and_can_be_traced(monkeypatch, capsys):
    from rawkit import cli

    def broken():
        raise KeyError("a\nb")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.delenv("RAWKIT_DEBUG", raising=False)
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "rawkit itself failed (KeyError at test_cli.py:" in told
    monkeypatch.setenv("RAWKIT_DEBUG", "1")
    with pytest.raises(KeyError):
        cli.main()


def test_what_a_file_says_of_itself_is_shown_as_it_is(dng, tmp_path):
    """No markup in a camera's name or a file's: the first would end the command, the others change what is shown."""
    from dataclasses import replace

    from rawkit.raw.read import read_raw

    image = read_raw(dng)
    odd = replace(image, metadata=replace(image.metadata, model="x[/b] [red]", source=None))
    write_dng(odd, tmp_path / "a:cat:.dng")
    run = rawkit("inspect", tmp_path / "a:cat:.dng")
    assert run.returncode == 0, run.stderr
    assert "x[/b] [red]" in run.stdout
    assert "a:cat:.dng" in run.stdout


def test_a_name_that_is_no_text_does_not_end_a_batch(dng, tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"a.dng", b"b\xff.dng", b"c.dng"):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(dng.read_bytes())
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most languages' settings
    run = rawkit("denoise", tmp_path / "in", *CLASSICAL, "-o", tmp_path / "out", env=strict)
    assert run.returncode == 0, run.stderr
    assert "3 denoised" in run.stdout


def test_json_has_no_numbers_that_json_does_not_know():
    from rawkit.cli.output import to_json

    text = to_json({"a": [float("nan"), 1.5], "b": np.array([np.inf, 2]), "c": (np.float32("nan"), np.bool_(True))})
    known = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert known == {"a": [None, 1.5], "b": [None, 2.0], "c": [None, True]}


def test_errors_of_the_system_are_told_as_such(dng, tmp_path):
    """Names that are too long, a log that is a folder: not mistakes of ours, and nothing is begun."""
    long = "a" * 300
    for command in ("inspect", "denoise"):
        assert "File name too long" in one_line(rawkit(command, long), 2)
    assert "Is a directory" in one_line(rawkit("denoise", dng, *CLASSICAL, "-o", tmp_path / "o", "--log", tmp_path), 2)
    assert not (tmp_path / "o").exists()


def test_options_that_would_be_ignored_are_refused(dng, tmp_path):
    denoise, synthesize = ("denoise", dng, *CLASSICAL), ("synthesize", dng, "--iso", 800)
    for limit in ("inf", "nan", "0"):
        assert "positive number" in one_line(rawkit(*denoise, "--memory", limit), 2)
        assert "positive number" in one_line(rawkit(*denoise, "--time-limit", limit), 2)
    assert "--workers" in one_line(rawkit(*denoise, "--cluster", "tcp://127.0.0.1:9", "--workers", 2), 2)
    assert "data sets" in one_line(rawkit(*synthesize, "--verify"), 2)
    data_set = ("synthesize", dng.parent, "--iso", 800, "--count", 2, "-o", tmp_path / "set")
    assert "--recursive" in one_line(rawkit(*data_set, "--recursive"), 2)
    profile = next(p for p in bundled_profiles())
    export = ("profiles", "export", profile, "--format")
    assert "leave -o out" in one_line(rawkit(*export, "dng", "--iso", 800, "-o", tmp_path / "tag.txt"), 2)
    assert "--iso" in one_line(rawkit(*export, "csv", "--iso", 800, "-o", tmp_path / "p.csv"), 2)
    assert "--input" in one_line(rawkit("demo", "--camera", "Sony ILCE-7SM2", "-o", tmp_path / "demo"), 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
def test_lines_under_a_bar_stand_alone(dng, tmp_path):
    """On a terminal the bar is gone while a line is printed: as the terminal shows it, no line holds both."""
    import pty

    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.dng").write_bytes(dng.read_bytes())
    command = [
        sys.executable,
        "-m",
        "rawkit.cli",
        "denoise",
        str(tmp_path / "in"),
        *CLASSICAL,
        "-o",
        str(tmp_path / "o"),
    ]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, command, {**os.environ, "TERM": "xterm", "COLUMNS": "250"})
    shown = b""
    with contextlib.suppress(OSError):  # the end
        while part := os.read(terminal, 65536):
            shown += part
    assert os.waitpid(child, 0)[1] == 0
    assert b"denoising" in shown  # there was a bar
    for line in screen(shown.decode()):
        assert not ("denoising" in line and "->" in line), line


def screen(text):
    """What a terminal shows of a text that moves its cursor up and erases lines."""
    lines, row, column = {}, 0, 0
    for code, character in re.findall(r"\x1b\[\??(\d*[A-Za-z])|(.)", text, re.DOTALL):
        if code.endswith("A"):
            row -= int(code[:-1] or 1)
        elif code.endswith("K"):
            lines[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character:
            line = lines.get(row, "").ljust(column)
            lines[row], column = line[:column] + character + line[column + 1 :], column + 1
    return lines.values()


def test_pytorch_is_loaded_by_the_worker_alone(dng, tmp_path):
    """Where no GPU can be; the question for one is PyTorch's to answer."""
    pytest.importorskip("torch")
    if _could_have_gpu():
        pytest.skip("there may be a GPU")
    code = (
        "import sys\nfrom rawkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "denoise", str(dng), "-o", str(tmp_path), "--model", "fast", "--dry-run"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1] == "0 False", run.stderr
