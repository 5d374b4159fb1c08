"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the shared test data: RAWKIT_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("RAWKIT_TEST_DATA", _BESIDE))
    if not folder.is_dir():
        pytest.skip("no shared test data: set RAWKIT_TEST_DATA to its folder")
    return folder
