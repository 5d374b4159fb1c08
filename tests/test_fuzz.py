"""Damaged files cost nothing but themselves; the long run is benchmarks/fuzz.py."""

import sys
from pathlib import Path

import numpy as np
import pytest
from mutants import mutant, seed_files

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from fuzz import BAD, DONE, MEMORY, REFUSED, batch_of_mutants, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a limit of memory is POSIX's")
COUNT = 200


def test_a_mutant_is_a_function_of_its_number():
    (seed,) = [seed for seed in seed_files(torch=False) if seed.name == "lossless_tiles.dng"]
    made = [[mutant(seed, [seed], np.random.default_rng([1, n])) for n in range(20)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({data for data in made[0] if data != seed.data}) > 15


def test_damaged_files_are_read_or_refused_within_their_limits():
    results = run(COUNT, 7, torch=False)
    assert [(number, outcome.text) for _, number, outcome in results if outcome.state in BAD] == []
    states = [outcome.state for _, _, outcome in results]
    assert states.count(DONE) > 0.1 * COUNT  # some damage does not matter,
    assert states.count(REFUSED) > 0.4 * COUNT  # most does
    assert max(outcome.memory for _, _, outcome in results) < MEMORY


def test_a_folder_of_damaged_pictures_is_denoised_to_its_end(tmp_path):
    done, untold = batch_of_mutants(24, 3, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert untold == []
    lines = [line for line in done.stderr.splitlines() if line]
    assert all(line.startswith("rawkit: ") for line in lines), lines
