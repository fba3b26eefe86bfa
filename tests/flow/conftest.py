import shutil

import pytest
from moving_clips import Moving


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> str:
    builder = Moving(data_dir=tmp_path_factory.mktemp("moving"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


@pytest.fixture
def prepared(_made, tmp_path) -> str:
    """A data set of the test's own, to which it may add flow."""
    return shutil.copytree(_made, str(tmp_path / "moving"))
