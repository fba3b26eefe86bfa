import io

import numpy as np
import pytest

from ssp_jax.data.saved_arrays import array_bytes, read_array


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64, bool])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5, 6, 2), (0, 7)])
def test_arrays_come_back_as_numpy_reads_them(shape, dtype):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    record = array_bytes(array)
    for read in (read_array(record), np.load(io.BytesIO(record))):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_what_is_not_an_array_is_refused():
    record = array_bytes(np.arange(6.0).reshape(2, 3))
    for damaged in (b"", record[:-1], record + b"0", b"x" + record[1:], record[:40]):
        with pytest.raises(ValueError, match="array"):
            read_array(damaged)
    with pytest.raises(ValueError, match=r"an array of \(3, 3\)"):
        read_array(record.replace(b"(2, 3)", b"(3, 3)"))
    objects = io.BytesIO()
    np.save(objects, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="no array"):
        read_array(objects.getvalue())
