"""Arrays in the bytes of a record, as `np.save` writes them."""

import io
import math
import re

import numpy as np

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][fiub]\d)', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n"
)


def array_bytes(array: np.ndarray) -> bytes:
    """Return what `read_array` reads."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def read_array(record: bytes) -> np.ndarray:
    """The array of numbers in a record, without copying it.

    Not by `np.load`: it has Python parse the header, which Python 3.11 cannot do in several threads
    at once ("AST constructor recursion depth mismatch", one of some 100,000 reads of a training).

    Raises:
      ValueError: not such an array, or not of the size that it names.
    """
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(record[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(record[start:end])
    if not record.startswith(_MAGIC) or header is None:
        raise ValueError("no array as NumPy saves them")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(part) for part in header[2].split(b",") if part.strip())
    if len(record) - end != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {shape} {dtype} in {len(record) - end} bytes")
    return np.frombuffer(record, dtype, offset=end).reshape(shape)
