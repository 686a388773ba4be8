"""Arrays that are written a part at a time, to the bytes that `numpy.save` writes of the whole."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class GrowingArray:
    """A new ``.npy`` file whose first axis grows. Close it by `finish`: until then it says that it holds no rows.

    Args:
        path: the file.
        dtype: type of the values.
        row_shape: the axes behind the first one.
    """

    def __init__(self, path: Path, dtype: Any, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._row_shape = np.dtype(dtype), row_shape
        self._n_rows = 0
        self._file: BinaryIO = path.open("w+b")
        self._write_header()
        self._n_header_bytes = self._file.tell()

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows behind those that are there. Raises ValueError for rows of another type or shape."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows are {rows.dtype} {rows.shape[1:]}; they must be {self._dtype} {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows).data)
        self._n_rows += len(rows)

    def finish(self) -> None:
        """Write the number of rows and close the file."""
        self._file.seek(0)
        self._write_header()  # NumPy leaves as much room as the longest number takes
        if self._file.tell() != self._n_header_bytes:
            raise ValueError(f"the header of {self._n_rows} rows is longer than that of none")
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._n_rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()
