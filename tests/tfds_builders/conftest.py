"""Source folders that several tests prepare."""

import layouts
import pytest
from prepared_clips import Prepared


@pytest.fixture
def s4(tmp_path):
    return Prepared("s4", layouts.write_s4(tmp_path / "AVSBench"), tmp_path / "prepared")


@pytest.fixture
def ms3(tmp_path):
    return Prepared("ms3", layouts.write_ms3(tmp_path / "AVSBench"), tmp_path / "prepared")


@pytest.fixture
def avss(tmp_path):
    return Prepared("avss", layouts.write_avss(tmp_path / "avs_released"), tmp_path / "prepared")
