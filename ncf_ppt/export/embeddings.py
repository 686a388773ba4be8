"""The embedding tables of a network as files that vector search loads, with original ids.

What the vectors mean: GMF's logit is ``bias + sum of w * user * item``, so with the last layer's weights w folded into
the user's side an inner product ranks items exactly as the network does. NeuMF adds its MLP's part to that, so the
inner product of its GMF half only finds candidates, to be reranked by the network. The user and the item table of an
MLP meet in its first layer, not in a product: their inner products are next to noise, and an MLP is searched by
items alike, for instance by the mean of ``mlp_items``, at unit length, over the items a user has. On MovieLens-100K
(NeuMF, 3 epochs) 100 candidates of 1,682 items held 58% of the network's top 10 by the GMF half, 11% by inner products
of the MLP's tables (chance: 6%) and 95% by that mean.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.export.encodings import MEANINGS, Dtype, encode
from ncf_ppt.export.vector_files import FORMATS, Batches, Format, write_ids, write_table
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.rotation import fit_rotation, rotate
from ncf_ppt.row_adam import RowEmbedding, is_binary
from ncf_ppt.serving import served
from ppt_core.errors import DataError
from ppt_core.runs.files import file_checksums, new_directory, write_json

FORMAT_VERSION = 1

_BATCH_BYTES = 1 << 24  # of float32 vectors in memory at a time

_MEANINGS = {
    "gmf": "the inner product of gmf_users and gmf_items, plus bias, is the network's logit",
    "neumf": "the inner product of gmf_users and gmf_items finds candidates, to be reranked by the network: it is the "
    "logit without the MLP's part and the bias; mlp_users and mlp_items make no inner product",
    "mlp": "mlp_users and mlp_items make no inner product: neighbours within mlp_items are items alike, and candidates "
    "to be reranked by the network",
}
_MEANING_OF_SIGNS = (
    "; signs err, so their inner product, scale * scale * (dimension - 2 * Hamming distance), only finds candidates"
)
_MEANING_OF_ROTATION = (
    ". Signs are those of rotated vectors, vector @ the matrix in the table's rotation file; rotate a vector of your "
    "own that asks for items, too"
)
_LEAST_BITS = 256  # of a vector of signs; and twice its components, in whole words


def export_embeddings(
    model: Network,
    data: PreparedData,
    out: Path,
    *,
    format: Format = "parquet",
    dtype: Dtype = "float32",
) -> dict[str, Any]:
    """Write the embedding tables of ``model`` to the new folder ``out`` and return its manifest.

    GMF and NeuMF have the tables ``gmf_users`` (the last layer's weights folded in) and ``gmf_items``, MLP and NeuMF
    ``mlp_users`` and ``mlp_items``. What a network reads of a user's last items is part of the user's vectors, and
    an item's bias of the item's (`ncf_ppt.serving.served`). The module says which of them make an inner product, and so
    does ``manifest.json`` under ``meaning``, beside ``bias`` (of the last layer), the ``encoding``, each table's
    ``dimension`` and ``stored_dimension``, the SHA-256 of the files, and in ``data_sha256`` what identifies the data
    (`PreparedData.content`; null for data that were never saved). What the files hold is said in
    `ncf_ppt.export.vector_files`.

    ``int8`` is symmetric, one scale for each row (0 for a row of zeros). ``binary`` keeps a sign for each component and
    a scale for each row, in bytes uint8. Before that, vectors are rotated and lifted to 256 components, or to twice
    their own size, rounded up to a multiple of 64, if that is more (`ncf_ppt.rotation`): ``gmf_rotation.npy`` for both
    GMF tables and ``mlp_rotation.npy``, float64 (size, dimension), named by each table's ``rotation`` in the manifest.
    Tables that were trained at 1 bit are what they are and are not rotated; their last byte is padded with 0 bits,
    which no Hamming distance sees. Rows are streamed in batches of 16 MiB. The bytes written are a function of the
    arguments.

    Raises:
        DataError: ``out`` exists or cannot be written, a component is not finite or beyond float16.
        ValueError: ``model`` and ``data`` differ in users or items, or an option is unknown.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; choose one of {', '.join(FORMATS)}")
    if format == "faiss" and dtype == "int8":
        raise ValueError("faiss has no index of int8 with a scale for each row; choose float32, float16 or binary")
    if dtype not in MEANINGS:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(MEANINGS)}")
    model = served(model)
    ids = {"users": data.user_ids, "items": data.item_ids}
    tables = _tables(model)
    for name, (table, _) in tables.items():
        n_ids = len(ids[name[4:]])
        if table.num_embeddings != n_ids:
            raise ValueError(
                f"{name} has {table.num_embeddings} rows and the data have {n_ids}; pass the data of the model"
            )

    descriptions: dict[str, dict[str, Any]] = {}
    rotations = _rotations(tables) if dtype == "binary" else {}
    meaning = _MEANINGS[model.config.model] + (_MEANING_OF_SIGNS if dtype == "binary" else "")
    with new_directory(out) as folder:
        for part, matrix in rotations.items():
            np.save(folder / f"{part}_rotation.npy", matrix, allow_pickle=False)
        for name, (table, weights) in tables.items():
            rotation = rotations.get(name[:3])
            dimension = table.embedding_dim if rotation is None else rotation.shape[1]
            width = -(-dimension // 8) if dtype == "binary" else dimension
            batches = _encoded_batches(name, table, weights, rotation, ids[name[4:]], dtype)
            write_table(folder, name, ids[name[4:]], width, dtype, format, batches)
            descriptions[name] = {
                "rows": table.num_embeddings,
                "dimension": dimension,
                "stored_dimension": 8 * width if dtype == "binary" else width,
            }
            if rotation is not None:
                descriptions[name]["rotation"] = f"{name[:3]}_rotation.npy"
        for side, side_ids in ids.items():
            write_ids(folder, side[:-1], side_ids, format)
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": "embeddings",
            "model": model.config.model,
            "format": format,
            "dtype": dtype,
            "encoding": MEANINGS[dtype],
            "meaning": meaning + (_MEANING_OF_ROTATION if rotations else ""),
            "bias": float(model.last.bias.item()),
            "n_users": data.n_users,
            "n_items": data.n_items,
            "tables": descriptions,
            "data_sha256": data.content,
            "files": file_checksums(folder),
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def _tables(model: NCF) -> dict[str, tuple[RowEmbedding, Tensor | None]]:
    """Tables by name, with the weights to fold in where there are any."""
    tables: dict[str, tuple[RowEmbedding, Tensor | None]] = {}
    if model.config.model != "mlp":
        tables["gmf_users"] = model.gmf_user, model.last.weight[0, : model.config.factors]
        tables["gmf_items"] = model.gmf_item, None
    if model.config.model != "gmf":
        tables["mlp_users"] = model.mlp_user, None
        tables["mlp_items"] = model.mlp_item, None
    return tables


def _rotations(tables: dict[str, tuple[RowEmbedding, Tensor | None]]) -> dict[str, NDArray[np.float64]]:
    """The rotation of each pair of tables that are not 1-bit already, fitted to the items' vectors."""
    found = {}
    for name, (table, _) in tables.items():
        if name.endswith("items") and not is_binary(table):
            n_bits = max(_LEAST_BITS, -(-2 * table.embedding_dim // 64) * 64)
            vectors = table.values().float().cpu().numpy()
            _check_finite(name, vectors)
            found[name[:3]] = fit_rotation(vectors, n_bits)
    return found


def _encoded_batches(
    name: str,
    table: RowEmbedding,
    weights: Tensor | None,
    rotation: NDArray[np.float64] | None,
    ids: NDArray[Any],
    dtype: Dtype,
) -> Batches:
    n_rows = max(1, _BATCH_BYTES // (4 * table.embedding_dim))
    for start in range(0, len(ids), n_rows):
        batch_ids = ids[start : start + n_rows]
        with torch.no_grad():
            # Through the module, since the rows of its weight may lag behind.
            rows = table(torch.arange(start, start + len(batch_ids), device=table.weight.device))
            vectors = (rows if weights is None else rows * weights).float().cpu().numpy()
        _check_finite(name, vectors)
        yield batch_ids, *encode(vectors if rotation is None else rotate(vectors, rotation), dtype)


def _check_finite(name: str, vectors: NDArray[np.float32]) -> None:
    if not np.isfinite(vectors).all():
        raise DataError(f"{name} holds NaN or infinity; the model has diverged: train it with a lower learning rate")
