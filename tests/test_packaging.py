"""What is built from this checkout: the same bytes every time, all data inside, nothing that does not belong.

Builds run without a network, by hatchling as installed here.
"""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import rawkit

pytest.importorskip("hatchling")

ROOT = Path(__file__).parent.parent
DATA = ("calibration_data", "models")
STEM = f"rawkit_camera-{rawkit.__version__}"
IMAGES = ("cpu", "cuda")


def build(source, target):
    """Wheel and sdist of a source tree."""
    run = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(
        run, cwd=source, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    )
    return target / f"{STEM}-py3-none-any.whl", target / f"{STEM}.tar.gz"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The sdist's folder."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built[1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / STEM


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_built_again_or_from_the_sdist_every_byte_is_the_same(built, unpacked, tmp_path):
    again = build(unpacked, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in built]


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(f"{STEM}.dist-info/")}
        facts = wheel.read(f"{STEM}.dist-info/METADATA").decode()
    package = {f"rawkit/{name}" for name in files(ROOT / "rawkit")}
    data = {f"rawkit/_data/{name}/{file}" for name in DATA for file in files(ROOT / name)}
    assert names == package | data
    assert {"rawkit/py.typed", "rawkit/_data/models/manifest.json"} <= names
    for extra in ("cluster", "hdf5", "torch"):
        assert f"Provides-Extra: {extra}\n" in facts


def test_the_sdist_holds_what_is_needed_to_build_and_test(unpacked):
    present = files(unpacked)
    for folder in ("rawkit", "tests", "benchmarks", *DATA):
        assert {name for name in present if name.startswith(f"{folder}/")} == {
            f"{folder}/{name}" for name in files(ROOT / folder)
        }
    assert {"pyproject.toml", "Makefile", "constraints.txt", "README.md", "LICENSE"} <= present
    assert not [name for name in present if name.startswith(("runs/", ".venv/", "demo-output/"))]


def test_the_package_finds_its_data_where_only_the_wheel_is(built, tmp_path):
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import json, rawkit; from rawkit import resources as r; from rawkit.sensor.profile import CameraProfile\n"
        "models = [CameraProfile.load(p).model for p in r.bundled_profiles()]\n"
        "weights = [str(r.find_weights(name)) for name in r.bundled_weights()]\n"
        "print(json.dumps([rawkit.__file__, models, weights, str(r.data_folder('models'))]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    home, models, weights, folder = json.loads(run.stdout)
    assert Path(home).is_relative_to(tmp_path)
    assert Path(folder) == tmp_path / "rawkit" / "_data" / "models"
    assert len(models) == len(list((ROOT / "calibration_data" / "profiles").glob("*.json")))
    assert all(Path(path).is_relative_to(tmp_path) for path in weights)


def test_numbers_and_names_agree_between_the_project_and_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == rawkit.__version__
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    for requirement in wanted:
        name = requirement.split(">=")[0].split("[")[0].lower().replace("_", "-")
        assert name in pinned, f"{name} has no version in constraints.txt"


@pytest.mark.parametrize("image", IMAGES)
def test_a_container_file_copies_what_exists_and_runs_as_a_user(image):
    path = ROOT / "docker" / f"{image}.Dockerfile"
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    stages = [step[-1] for step in steps if step[0] == "FROM"]
    assert [step[1] for step in steps if step[0] == "USER"], "it would run as root"
    assert [step for step in steps if step[0] == "ENTRYPOINT"] == [["ENTRYPOINT", '["rawkit"]']]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for step in steps:
        if step[0] == "COPY" and step[1].startswith("--from="):
            assert step[1].removeprefix("--from=") in stages
        elif step[0] == "COPY":
            for source in step[1:-1]:
                assert (ROOT / source).exists(), f"{path.name} copies {source}, which is not here"
                assert source not in ignored
