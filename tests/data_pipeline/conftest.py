import pytest
from tiny_clips import Tiny

from ssp_jax.data.sources import ClipSource


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> str:
    """The version folder of the tiny data set."""
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


@pytest.fixture(scope="module")
def train(prepared):
    return ClipSource([(prepared, "train")])


@pytest.fixture(scope="module")
def evaluated(prepared):
    """Its test split."""
    return ClipSource([(prepared, "test")])
