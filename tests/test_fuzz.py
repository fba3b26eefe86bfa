"""The short form of `python -m benchmarks.fuzz`: damaged files are read right, or refused."""

import pytest

from benchmarks.fuzz_cases import FAILED, make, run_case

# Of those that take milliseconds.
CASES = {
    "prepared records": 12,
    "flow store": 6,
    "mask store": 12,
    "texts": 20,
    "tokeniser": 20,
    "weight folder": 20,
    "weights of others": 20,
    "run folder": 20,
    "videos": 8,
    "config overrides": 20,
}


@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name, tmp_path):
    whole = tmp_path / "whole"
    expected = make(name, whole)
    outcomes = [
        run_case(name, whole, expected, seed, tmp_path / str(seed)) for seed in range(CASES[name])
    ]
    assert not [outcome for outcome in outcomes if outcome.kind in FAILED]
    assert any(outcome.kind == "refused" for outcome in outcomes)
