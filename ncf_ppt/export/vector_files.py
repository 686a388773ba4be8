"""Tables of vectors with ids, as files: written in batches, read whole.

All but Faiss, whose index is built in memory, are written in the memory of a batch.

===============  ======================================================================================================
``parquet``      ``TABLE.parquet``: ``user_id`` or ``item_id`` as in the source, ``vector`` (a fixed-size list) and, for
                 int8 and binary, float32 ``scale``
``npy``          ``TABLE.npy`` (n, width) and, for int8 and binary, ``TABLE_scale.npy`` float32 (n,); the ids are in
                 ``user_ids.npy`` and ``item_ids.npy``, int64 (n,), or, if strings, in ``user_ids.json``, a list
``safetensors``  ``TABLE.safetensors``: ``vectors`` (n, width), ``scales`` (n,) for int8 and binary, and ``ids`` int64
                 (n,) or, of strings, ``ids_utf8``, one behind the other, with ``ids_offsets`` (n + 1,)
``faiss``        ``TABLE.faiss``: a flat index with ids, by inner product (float32, float16) or Hamming distance
                 (binary, without scales). Of string ids it has the row numbers, and ``user_ids.json``,
                 ``item_ids.json`` the ids
===============  ======================================================================================================
"""

import contextlib
import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import id_column
from ncf_ppt.export.encodings import Dtype, decode
from ppt_core.damaged import understanding
from ppt_core.errors import DataError
from ppt_core.json_text import json_text

Format = Literal["parquet", "npy", "safetensors", "faiss"]
FORMATS = ("parquet", "npy", "safetensors", "faiss")
Batches = Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.float32] | None]]  # ids, values, scales

_DTYPE_NAMES = {"int64": "I64", "float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}


def write_table(folder: Path, name: str, ids: NDArray[Any], width: int, dtype: Dtype, format: Format,
                batches: Batches) -> None:  # fmt: skip
    """Write table ``name`` of stored ``width``, a batch at a time.

    Args:
        folder: where to.
        name: such as ``gmf_items``: the kind of its ids stands behind the underscore.
        ids: all ids of the table.
        width: of a stored row: components, or bytes of bits.
        dtype: of the values.
        format: see above.
        batches: rows in the order of ``ids``.

    Raises `DataError` if Faiss is wanted and not installed.
    """
    if format == "parquet":
        _write_parquet(folder / f"{name}.parquet", f"{name[4:-1]}_id", width, dtype, batches)
    elif format == "npy":
        _write_npy(folder / name, (len(ids), width), dtype, batches)
    elif format == "safetensors":
        _write_safetensors(folder / f"{name}.safetensors", ids, width, dtype, batches)
    else:
        _write_faiss(folder / f"{name}.faiss", width, dtype, batches, ids)


def write_ids(folder: Path, kind: str, ids: NDArray[Any], format: Format) -> None:
    """Write the ids of a ``kind``, ``user`` or ``item``, where the format has none in its tables."""
    path = folder / f"{kind}_ids"
    if ids.dtype.kind != "i" and format in ("npy", "faiss"):
        path.with_suffix(".json").write_text(json_text(ids.tolist(), ensure_ascii=False), encoding="utf-8")
    elif format == "npy":
        np.save(path.with_suffix(".npy"), ids, allow_pickle=False)


def read_table(folder: Path, name: str, format: Format, dimension: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Read a table back: its ids (n,) and what `ncf_ppt.export.encodings.decode` gives, float32 (n, dimension).

    Raises `DataError` if the files hold something else.
    """
    from safetensors import SafetensorError

    with understanding(folder / name, SafetensorError, OSError, RuntimeError):
        return _read_table(folder, name, format, dimension)


def _read_table(folder: Path, name: str, format: Format, dimension: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    if format == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(folder / f"{name}.parquet")
        vectors = table.column("vector").combine_chunks()
        values = np.asarray(vectors.values.to_numpy(zero_copy_only=False)).reshape(len(table), -1)
        scales = table.column("scale").to_numpy() if "scale" in table.column_names else None
        return np.asarray(table.column(0).to_numpy()), decode(values, scales, dimension)
    if format == "npy":
        scale_path = folder / f"{name}_scale.npy"
        scales = np.load(scale_path, allow_pickle=False) if scale_path.exists() else None
        values = np.load(folder / f"{name}.npy", allow_pickle=False)
        return _read_ids(folder / f"{name[4:-1]}_ids"), decode(values, scales, dimension)
    if format == "safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(folder / f"{name}.safetensors")
        if "ids" in tensors:
            ids = tensors["ids"]
        else:
            octets = tensors["ids_utf8"].tobytes()
            ids = np.empty(len(tensors["vectors"]), object)
            ids[:] = [octets[start:stop].decode() for start, stop in pairwise(tensors["ids_offsets"].tolist())]
        return ids, decode(tensors["vectors"], tensors.get("scales"), dimension)
    return _read_faiss(folder, name, dimension)


def _write_parquet(path: Path, id_name: str, width: int, dtype: Dtype, batches: Batches) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet keeps a byte as 32 bits; as an index into a dictionary of at most 256 values it is a byte again.
    dictionaries = ["vector.list.element"] if dtype in ("int8", "binary") else False
    with contextlib.ExitStack() as stack:
        writer: Any = None
        for ids, values, scales in batches:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
            columns = {id_name: id_column(ids), "vector": vectors}
            if scales is not None:
                columns["scale"] = pa.array(scales)
            table = pa.table(columns)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, use_dictionary=dictionaries))
            writer.write_table(table)


def _write_npy(stem: Path, shape: tuple[int, int], dtype: Dtype, batches: Batches) -> None:
    stored = np.dtype(np.uint8 if dtype == "binary" else dtype)
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": shape}
    all_scales = []
    # Written from start to end, not through a memory map, which a full disk would end with SIGBUS.
    with stem.with_suffix(".npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, values, scales in batches:
            file.write(values.tobytes())
            if scales is not None:
                all_scales.append(scales)
    if all_scales:
        np.save(stem.with_name(f"{stem.name}_scale.npy"), np.concatenate(all_scales), allow_pickle=False)


def _write_safetensors(path: Path, ids: NDArray[Any], width: int, dtype: Dtype, batches: Batches) -> None:
    """The format's own: length of the header, the header as JSON, then the tensors without gaps."""
    first: dict[str, NDArray[Any]] = {"ids": ids.astype("<i8")} if ids.dtype.kind == "i" else {}
    last: dict[str, NDArray[Any]] = {}
    if not first:
        encoded = [str(each).encode() for each in ids]
        first["ids_offsets"] = np.cumsum([0, *map(len, encoded)], dtype="<i8")
        last["ids_utf8"] = np.frombuffer(b"".join(encoded), np.uint8)
    stored = np.dtype(np.uint8 if dtype == "binary" else dtype)
    shapes: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = [(k, v.dtype, v.shape) for k, v in first.items()]
    has_scales = dtype in ("int8", "binary")
    if has_scales:  # in front of what could leave them at an odd place
        shapes.append(("scales", np.dtype(np.float32), (len(ids),)))
    shapes.append(("vectors", stored, (len(ids), width)))
    shapes += [(name, array.dtype, array.shape) for name, array in last.items()]
    header: dict[str, Any] = {}
    end = 0
    for name, kind, shape in shapes:
        start, end = end, end + int(np.prod(shape)) * kind.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[kind.name], "shape": list(shape), "data_offsets": [start, end]}
    text = json_text(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in first.values():
            file.write(array.tobytes())
        all_scales = []
        if has_scales:
            scales_at = file.tell()
            file.seek(4 * len(ids), 1)
        for _, values, scales in batches:
            file.write(values.tobytes())
            if scales is not None:
                all_scales.append(scales)
        for array in last.values():
            file.write(array.tobytes())
        if has_scales:
            file.seek(scales_at)
            file.write(np.concatenate(all_scales).tobytes())


def import_faiss() -> Any:
    """Return the module. Raises `DataError` if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise DataError("a Faiss index needs the package faiss-cpu; `pip install 'ppt-ncf[faiss]'` brings it") from None
    return faiss


def _write_faiss(path: Path, width: int, dtype: Dtype, batches: Batches, ids: NDArray[Any]) -> None:
    faiss = import_faiss()
    if dtype == "binary":
        index = faiss.IndexBinaryIDMap2(flat := faiss.IndexBinaryFlat(8 * width))
    elif dtype == "float16":
        flat = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexIDMap2(flat)
    else:
        index = faiss.IndexIDMap2(flat := faiss.IndexFlatIP(width))
    n_written = 0
    for batch_ids, values, _ in batches:
        numbers = np.arange(n_written, n_written + len(batch_ids)) if ids.dtype.kind != "i" else batch_ids
        n_written += len(batch_ids)
        vectors = values if dtype == "binary" else values.astype(np.float32)
        index.add_with_ids(vectors, numbers.astype(np.int64))
    (faiss.write_index_binary if dtype == "binary" else faiss.write_index)(index, str(path))


def _read_faiss(folder: Path, name: str, dimension: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    faiss = import_faiss()
    path = str(folder / f"{name}.faiss")
    try:
        index = faiss.read_index(path)
        flat = faiss.downcast_index(index.index)
    except RuntimeError:
        index = faiss.read_index_binary(path)
        flat = faiss.downcast_IndexBinary(index.index)
        values = faiss.vector_to_array(flat.xb).reshape(index.ntotal, -1)
    else:
        values = flat.reconstruct_n(0, index.ntotal)
    ids = faiss.vector_to_array(index.id_map)
    if (folder / f"{name[4:-1]}_ids.json").exists():
        ids = _read_ids(folder / f"{name[4:-1]}_ids")
    return ids, decode(values, None, dimension)


def _read_ids(stem: Path) -> NDArray[Any]:
    if stem.with_suffix(".npy").exists():
        return np.asarray(np.load(stem.with_suffix(".npy"), allow_pickle=False))
    return np.array(json.loads(stem.with_suffix(".json").read_text("utf-8")), object)
