"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rawkit"

# A room may import itself and the rooms listed for it (docs/design/0001-layout.md).
MAY_IMPORT = {
    "errors": set(),
    "resources": {"errors"},
    "devices": set(),
    "raw": {"errors", "resources"},
    "sensor": {"errors", "devices", "resources", "raw"},
    "noise": {"errors", "resources", "raw", "sensor"},
    "nn": {"errors", "resources"},
    "restore": {"errors", "devices", "resources", "raw", "sensor", "noise", "nn"},
    "train": {"errors", "devices", "resources", "raw", "sensor", "noise", "nn"},
    "report": {"errors", "resources", "raw", "sensor", "noise", "nn", "restore", "train"},
    "parallel": {"errors"},
    "batch": {"errors", "resources", "raw", "sensor", "parallel"},
    "demo": {"errors", "resources", "raw", "sensor", "noise", "restore", "report"},
    "view": {"errors", "resources", "raw", "sensor", "restore", "report", "parallel", "batch"},
}


def imports(path):
    """(room, line) of every import of rawkit at run time; ``if TYPE_CHECKING`` blocks do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "rawkit" else [node.module]
            )
        for name in names:
            yield name, node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("cli", "__init__"):
        return
    for name, line in imports(path):
        if name.startswith("rawkit."):
            target = name.split(".")[1]
            assert target in MAY_IMPORT[room] | {room}, f"{path.name}:{line} imports {name}"


@pytest.mark.parametrize("room", ["raw", "sensor"])
def test_files_and_sensors_load_without_torch(room):
    """A function may import torch when its caller asks for a GPU; loading a module must not."""
    for path in sorted((PACKAGE / room).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for inner in [node] if isinstance(node, ast.Import | ast.ImportFrom) else []:
                names = [a.name for a in inner.names] if isinstance(inner, ast.Import) else [inner.module or ""]
                assert "torch" not in {n.split(".")[0] for n in names}, f"{path.name} imports torch"


def test_import_is_light():
    code = "import sys, time; t = time.time(); import rawkit; print(time.time() - t, 'torch' in sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds, torch = zip(*(run.stdout.split() for run in runs), strict=True)
    assert set(torch) == {"False"}
    assert min(map(float, seconds)) < 0.3


def test_every_public_name_loads():
    import rawkit

    for name in rawkit.__all__:
        assert getattr(rawkit, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rawkit.nothing  # noqa: B018


def test_the_old_package_beside_ours_is_named(tmp_path):
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "rawkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rawkit" / "raw.py").write_text("")
    run = subprocess.run(
        [sys.executable, "-c", "import rawkit"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode != 0
    assert "pip uninstall -y rawkit" in run.stderr.splitlines()[-1]
