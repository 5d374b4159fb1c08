"""The documentation says what is so: commands run as written, messages exist, every page can be reached."""

import ast
import glob
import importlib.util
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from synthetic import expose

from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.sensor.params import NoiseParams

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
HOW_TOS = sorted((DOCS / "how-to").glob("*.md"))

BLACK, WHITE, SHAPE = 512.0, 16383.0, (96, 128)
NOISE = {800.0: (0.8, 4.0), 3200.0: (3.2, 9.0)}  # ISO: K [DN/e-], read noise [DN]
FLATS = (0.02, 0.1, 0.25, 0.4, 0.6)  # of saturation
TOLD_ELSEWHERE = {"demo"}  # commands of which no how-to need tell: it is on the first page


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``skipped`` is the reason why it is not run here."""

    language: str
    title: str | None
    text: str
    skipped: str | None


def blocks(page):
    """The fenced blocks of a page."""
    pattern = re.compile(
        r"(?:<!-- not run in the tests: (?P<reason>[^>]+) -->\n)?"
        r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
        re.MULTILINE | re.DOTALL,
    )
    text = page.read_text(encoding="utf-8")
    return [Block(m["language"], m["title"], m["text"], m["reason"]) for m in pattern.finditer(text)]


def commands(block):
    """The words of every command of a block, patterns not yet replaced."""
    return [shlex.split(line, comments=True) for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


def rawkit(words, monkeypatch):
    """Run a command in this process, as its entry point would; returns the exit code."""
    from rawkit.cli import main

    expanded = [name for word in words for name in (sorted(glob.glob(word)) or [word])]
    monkeypatch.setattr(sys, "argv", expanded)
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


def picture(iso, electrons, rng, *, time=0.01):
    """A raw of the simulated camera, in bare NumPy."""
    system_gain, read_noise = NOISE[iso]
    return RawImage(
        raster=expose(electrons, system_gain=system_gain, read_noise=read_noise, black=BLACK, white=WHITE, rng=rng),
        cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(BLACK), white_level=WHITE,
        metadata=Metadata(make="Maker", model="M1", iso=iso, exposure_time=time, as_shot_neutral=(0.5, 1.0, 0.6)),
    )  # fmt: skip


def shoot_frames(folder, *, darks=6):
    """Flats and darks of both ISOs, named as a camera names its files."""
    rng, number = np.random.default_rng(1), 1001
    for kind in ("flats", "darks"):
        (folder / kind).mkdir(parents=True)
    for iso, (system_gain, _) in NOISE.items():
        for level in FLATS:
            electrons = np.full(SHAPE, level * (WHITE - BLACK) / system_gain)
            for _ in range(2):
                write_dng(picture(iso, electrons, rng, time=level / 10), folder / "flats" / f"DSC0{number}.dng")
                number += 1
        for _ in range(darks):
            write_dng(picture(iso, np.zeros(SHAPE), rng), folder / "darks" / f"DSC0{number}.dng")
            number += 1


def shoot_photograph(path, *, iso=800.0, shape=(192, 256)):
    """A raw photograph: a ramp with edges, and the NoiseProfile tag that the camera would write."""
    electrons = np.tile(np.linspace(0, 4000, shape[1]), (shape[0], 1))
    electrons[: shape[0] // 2] *= 0.4
    system_gain, read_noise = NOISE[iso]
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = picture(iso, electrons, np.random.default_rng(len(path.name)))
    write_dng(raw, path, noise=NoiseParams(system_gain, read_noise**2))


def save_photograph(path, seed, *, shape=(96, 128)):
    """A smooth sRGB picture."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 20.0
    rgb = np.stack([128 + 100 * np.sin(x + seed), 128 + 100 * np.cos(y - seed), 90 + 60 * np.sin(x * y / 20)], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def camera_files(tmp_path_factory):
    """Folder that holds ``my_camera.json`` and its maps."""
    from rawkit.sensor.calibrate import calibrate
    from rawkit.sensor.frames import FrameSet

    folder = tmp_path_factory.mktemp("camera")
    shoot_frames(folder / "frames", darks=16)
    calibrate(FrameSet.open(folder / "frames")).profile.save(folder / "my_camera.json")
    return folder


def copy_profile(camera_files, folder):
    folder.mkdir(exist_ok=True)
    for path in camera_files.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())


def prepare_calibrate(folder, camera_files):
    """What somebody who calibrates has at hand."""
    shoot_frames(folder / "frames")
    shoot_photograph(folder / "IMG_0001.dng", shape=(512, 640))
    (folder / "lab").mkdir()
    rng = np.random.default_rng(2)
    for name, signal in [(f"dark_{n}", 0.0) for n in "12"] + [
        (f"flat_{n}{letter}", 500.0 * n) for n in (1, 2, 3, 4) for letter in "ab"
    ]:
        electrons = np.full(SHAPE, signal)
        frame = expose(electrons, system_gain=1.5, read_noise=3.0, black=64.0, white=4095.0, rng=rng)
        Image.fromarray(frame).save(folder / "lab" / f"{name}.tif")


def prepare_denoise(folder, camera_files):
    """Photographs, a profile, and weights of a training."""
    pytest.importorskip("torch")
    from rawkit.nn.restormer import RawRestormer, RestormerConfig
    from rawkit.nn.weights import save_network

    copy_profile(camera_files, folder)
    shoot_photograph(folder / "IMG_0001.dng")
    for name in ("a.dng", "trip/b.dng"):
        shoot_photograph(folder / "photos" / name)
    (folder / "my_run").mkdir()
    network = RawRestormer(RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), head_width=8))
    save_network(folder / "my_run" / "mine.safetensors", network, about={"name": "mine"})


def prepare_data(folder, camera_files):
    """Clean pictures, a profile, and darks that it was not made of."""
    copy_profile(camera_files, folder)
    save_photograph(folder / "clean.png", 0)
    for number in range(2):
        save_photograph(folder / "photos" / f"{number}.png", number)
    (folder / "darks").mkdir()
    rng = np.random.default_rng(3)
    for number in range(1, 9):
        write_dng(picture(800.0, np.zeros(SHAPE), rng), folder / "darks" / f"dark_{number:02d}.dng")


def prepare_train(folder, camera_files):
    """Photographs to learn from and to be judged by, and a profile."""
    pytest.importorskip("torch")
    copy_profile(camera_files, folder / "cameras")
    for name, count in (("my_photos", 3), ("held_out", 2)):
        for number in range(count):
            save_photograph(folder / name / f"{number}.png", number, shape=(200, 220))
    shoot_photograph(folder / "IMG_0001.dng")


PREPARE = {
    "calibrate-my-camera": prepare_calibrate,
    "denoise-my-files": prepare_denoise,
    "make-training-data": prepare_data,
    "train-my-own": prepare_train,
}


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda p: p.stem)
def test_commands_run_as_written(page, tmp_path, monkeypatch, camera_files, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAWKIT_PROFILES", str(tmp_path / "library"))
    if page.stem in PREPARE:
        PREPARE[page.stem](tmp_path, camera_files)
    for block in blocks(page):
        if block.skipped:
            continue
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, page.name, "exec"), {})
        elif block.language == "bash":
            for words in commands(block):
                assert words[0] == "rawkit", f"{shlex.join(words)} is not run here: mark its block with the reason"
                code = rawkit(words, monkeypatch)
                said = capsys.readouterr()
                assert code == 0, f"{shlex.join(words)}\n{said.out}\n{said.err}"


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda p: p.stem)
def test_commands_stand_in_blocks_that_are_run(page):
    """In running text a command may be named, not given with arguments; no block hides its language."""
    assert 2 * len(blocks(page)) == len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE))
    prose = re.sub(r"```.*?```|^\|.*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`rawkit ([^`]*)`", prose):
        assert len(name.split()) == 1, f"rawkit {name}"
    languages = {block.language for block in blocks(page)}
    assert languages <= {"bash", "python", "text", "csv", "toml", "json"}, languages


def test_every_command_is_in_a_how_to():
    import typer

    from rawkit.cli import app

    told = {tuple(words[1:3]) for page in HOW_TOS for block in blocks(page) if block.language == "bash"
            for words in commands(block) if words[0] == "rawkit"}  # fmt: skip
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        wanted = [(name, inner) for inner in getattr(command, "commands", {})] or [(name,)]
        for path in wanted:
            seen = any(words[: len(path)] == path for words in told)
            assert seen or name in TOLD_ELSEWHERE, f"no how-to uses rawkit {' '.join(path)}"


def source_texts():
    """All texts of the package as one string; what an f-string fills in is left out."""
    texts = []
    for path in (ROOT / "rawkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{[^}]*\}", "\0", node.value))
    return "\n".join(texts)


def test_quoted_messages_are_rawkits_own():
    """The words between the ... of a message in a table of troubles occur in the code."""
    source = source_texts()
    for page in HOW_TOS:
        troubles = page.read_text(encoding="utf-8").partition("\n## What can go wrong\n")[2]
        for message in re.findall(r"^\| `([^`]+)` \|", troubles, re.MULTILINE):
            for part in (p.strip() for p in message.split("...")):
                assert part in source, f"{page.name}: {part!r} is in no message of rawkit's"


def test_the_page_of_commands_is_whole():
    """Every command has its section, no summary is cut short, and nothing would be lost as an HTML tag."""
    import typer

    from rawkit.cli import app

    page = generated_pages().cli_page()
    for name in typer.main.get_command(app).commands:
        assert f"\n## `rawkit {name}`\n" in page, name
        assert re.search(rf"^\* \[`{name}`\]\(#rawkit-{name}\): .*[^.]\.$", page, re.MULTILINE), name
    assert "<" not in re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)


def generated_pages():
    """The hook of mkdocs.yml."""
    spec = importlib.util.spec_from_file_location("generated_pages", DOCS / "generated_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pages_that_load_from_elsewhere_are_refused():
    foreign = generated_pages()._FOREIGN
    for tag in (
        '<script src="https://a.org/b.js">',
        '<link rel="stylesheet" href="https://a.org/c">',
        "<img src=http://a.org/d>",
    ):
        assert foreign.search(tag), tag
    for tag in (
        '<a href="https://a.org">',
        '<script src="assets/b.js">',
        '<link rel="canonical" href="https://a.org">',
    ):
        assert not foreign.search(tag), tag


def nav_pages(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else nav_pages(value)


def test_every_page_can_be_reached():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = sorted(nav_pages(config["nav"]))
    there = sorted([p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")] + list(generated_pages().GENERATED))
    assert listed == there


def test_the_site_needs_nothing_from_elsewhere():
    """No web fonts; every other external request would need a script or style that mkdocs.yml names."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    for name in config.get("extra_css", []) + config.get("extra_javascript", []):
        assert (DOCS / name).is_file(), name


def test_the_table_of_profile_fields_is_that_of_the_schema():
    """Every field that the schema allows in a profile's entries has its row."""
    hook = generated_pages()
    assert hook.FIELDS_MARK in (DOCS / "reference" / "profile-format.md").read_text(encoding="utf-8")
    tables = hook.fields_tables()
    schema = json.loads((ROOT / "calibration_data" / "schema.json").read_text(encoding="utf-8"))
    entry = schema["properties"]["noise"]["items"]["properties"]
    for name in [*schema["properties"], *entry, *entry["details"]["properties"]]:
        assert f"`{name}`" in tables, name
    for name in schema["required"]:
        assert re.search(rf"^\| `{name}` \| [^|]+ \| yes \|", tables, re.MULTILINE), name


def test_every_public_name_is_in_the_python_reference():
    import rawkit as package

    text = "".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("api*.md"))
    for name in package.__all__:
        assert f"::: rawkit.{package._HOME[name]}.{name}" in text, name
