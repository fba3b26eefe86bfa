import pytest
from tiny_clips import Tiny


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> str:
    """The version folder of the tiny data set."""
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)
