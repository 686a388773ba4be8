"""Files that hold no ratings as a table, or as one of a program's own: told by their first bytes, named, refused."""

from collections.abc import Sequence

_CSV = "save the sheet or table as csv"
_FROM_PYTHON = "load it in Python and hand over the arrays or the DataFrame, or save them as Parquet"
_UNPACK = "unpack it and name the file inside"
_MAGIC = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"\x1f\x9d", "a compress (.Z) archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook or another Office file", _CSV),
    (0, b"SQLite format 3\0", "an SQLite database", "export the table of ratings as csv"),
    (8, b"DUCK", "a DuckDB database", "export the table of ratings: COPY ratings TO 'ratings.parquet'"),
    (0, b"\x93NUMPY", "an array of NumPy", _FROM_PYTHON),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _FROM_PYTHON),
    (0, b"MATLAB 5.0", "a MATLAB file", _FROM_PYTHON),
    (0, b"Obj\x01", "an Avro file", "convert it to Parquet"),
    (0, b"ORC", "an ORC file", "convert it to Parquet"),
    (0, b"RDX", "an R data file", "write the table with write.csv"),
    (0, b"X\n\0\0", "an R data file", "write the table with write.csv"),
    (0, b"%%MatrixMarket", "a Matrix Market file", "read it with scipy.io.mmread and hand over the matrix"),
    (0, b"%PDF", "a PDF document", "find the table of ratings itself"),
    (0, b"\x89PNG", "a picture", "find the table of ratings itself"),
    *(
        (0, bytes([0x80, version]), "a pickle, which could run any program when it is read", _FROM_PYTHON)
        for version in range(2, 6)
    ),
)


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """What the bytes at the start of a file say it is, and what to do; None if they say nothing."""
    for place, magic, kind, advice in _MAGIC:
        if head[place:].startswith(magic):
            return kind, advice
    start = head.lstrip()[:200].lower()
    if start.startswith(b"@relation"):
        return "an ARFF file", _CSV
    if start.startswith((b"<!doctype html", b"<html", b"<table")):
        return "a web page", "fetch the file itself: a login or an error page may have come in its place"
    if start.startswith(b"["):
        return "one JSON array", "write an object a line, as `jq -c '.[]'` or pandas with lines=True does"
    if start.startswith(b"{") and not start.splitlines()[0].strip(b"{ \t"):
        return "JSON with objects over several lines", "write an object a line, as `jq -c .` does"
    if start.startswith((b"insert into ", b"create table ", b"-- mysql dump", b"-- postgresql", b"--\n-- postgresql")):
        return "a script of SQL", "load it into its database, and export the table of ratings as csv"
    return None


def foreign_archive(names: Sequence[str]) -> tuple[str, str] | None:
    """What the members of a zip archive say it is; None if they say nothing."""
    if "[Content_Types].xml" in names:
        return "an Excel workbook or another Office file", _CSV
    if "content.xml" in names and "mimetype" in names:
        return "an OpenDocument sheet", _CSV
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz)", _FROM_PYTHON
    if any(name.endswith("data.pkl") for name in names):
        return "a file of PyTorch, which is a pickle", _FROM_PYTHON
    return None
