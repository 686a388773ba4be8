import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from data_prep.ratings.interactions import FORMAT_VERSION, Interactions, PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.evaluation import Evaluation
from ncf_ppt.rank_files import read_ranks
from ncf_ppt.ranking import Ranks
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256, write_json

FILES = [
    "history.npy",
    "items.npy",
    "items.parquet",
    "manifest.json",
    "offsets.npy",
    "test_items.npy",
    "test_negatives.npy",
]
FILES += ["users.parquet"]
INT_IDS = np.array([7, -5_000_000_000, 2**63 - 1])
STRING_IDS = np.array(["7", "é, \n", ""], object)


def prepared(user_ids: NDArray[Any] = INT_IDS, item_ids: NDArray[Any] | None = None) -> PreparedData:
    return PreparedData(
        train=Interactions.from_pairs(np.array([2, 0, 0]), np.array([4, 3, 1]), n_users=3, n_items=5),
        history=np.array([3, 1, 4], np.int32),
        test_items=np.array([0, 1, 2], np.int32),
        test_negatives=np.array([[2, 4], [0, 2], [0, 1]], np.int32),
        user_ids=user_ids,
        item_ids=np.arange(10, 15) if item_ids is None else item_ids,
        protocol="strict",
        manifest={"seed": 3, "source": {"name": "tést"}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepared().save(tmp_path / "data")
    return tmp_path / "data"


def test_interactions_are_rows_of_ascending_items() -> None:
    train = prepared().train
    assert (train.n_users, train.n_items, len(train)) == (3, 5, 3)
    assert [train.items_of(user).tolist() for user in range(3)] == [[1, 3], [], [4]]
    assert train.degrees.tolist() == [2, 0, 1]
    assert train.users().tolist() == [0, 0, 2]
    assert [train.offsets.dtype.name, train.items.dtype.name, train.users().dtype.name] == ["int64", "int32", "int32"]
    assert repr(train) == "Interactions(3 users x 5 items, 3 interactions)"


@pytest.mark.parametrize(
    ("offsets", "items", "message"),
    [
        ([0, 2, 1], [0, 1], "offsets must ascend from 0"),
        ([1, 2], [0, 1], "offsets must ascend from 0"),
        ([0, 1], [0, 1], "offsets must ascend from 0 to the number of items"),
        ([0, 1], [5], "items must be between 0 and 4"),
        ([0, 1], [-1], "items must be between 0 and 4"),
        ([0, 2], [3, 1], "strictly ascending within each user"),
        ([0, 1, 3], [4, 2, 2], "strictly ascending within each user"),
    ],
)
def test_interactions_refuse_what_is_no_matrix(offsets: list[int], items: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interactions(offsets=np.array(offsets), items=np.array(items, np.int32), n_items=5)


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 1, 0], [2, 2, 2], "strictly ascending"),
        ([2, 0], [0, 0], "users must be between 0 and 1"),
        ([-1, 0], [0, 0], "users must be between 0 and 1"),
        ([0, 1], [0, 2**32], "items must be between 0 and 2"),  # not item 0
    ],
)
def test_pairs_out_of_range_or_repeated_are_refused(users: list[int], items: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interactions.from_pairs(np.array(users), np.array(items), n_users=2, n_items=3)


@pytest.mark.parametrize("user_ids", [INT_IDS, STRING_IDS], ids=["int", "str"])
@pytest.mark.parametrize("item_ids", [np.arange(5), np.array(list("abcde"), object)], ids=["int", "str"])
def test_a_prepared_set_survives_saving(tmp_path: Path, user_ids: NDArray[Any], item_ids: NDArray[Any]) -> None:
    data = prepared(user_ids, item_ids)
    data.save(tmp_path / "new" / "data")
    loaded = PreparedData.load(tmp_path / "new" / "data")
    assert data.history is not None
    assert loaded.history is not None
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (data.history, loaded.history),
        (data.train.offsets, loaded.train.offsets),
        (data.train.items, loaded.train.items),
        (data.test_items, loaded.test_items),
        (data.test_negatives, loaded.test_negatives),
        (data.user_ids, loaded.user_ids),
        (data.item_ids, loaded.item_ids),
    ]
    for saved, found in pairs:
        assert saved.dtype == found.dtype
        np.testing.assert_array_equal(saved, found)
    for _, array in pairs[:5]:
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert (loaded.n_users, loaded.n_items, loaded.n_negatives, loaded.protocol) == (3, 5, 2, "strict")
    assert loaded.protocol_label == "leave-one-out, 2 negatives, strict"


def test_a_set_of_version_1_is_read_without_it(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["history"], manifest["files"]["history.npy"]
    (folder / "history.npy").unlink()
    write_json(folder / "manifest.json", {**manifest, "format_version": 1})
    assert PreparedData.load(folder).history is None


def test_the_folder_is_as_documented(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == PreparedData.load(folder).manifest
    expected = {"n_users": 3, "n_items": 5, "n_train": 3, "n_negatives": 2, "protocol": "strict", "seed": 3}
    assert manifest.items() >= (expected | {"format_version": FORMAT_VERSION, "source": {"name": "tést"}}).items()
    assert sorted(manifest["files"]) == [name for name in FILES if name != "manifest.json"]
    assert np.load(folder / "offsets.npy").tolist() == [0, 2, 2, 3]
    assert pq.read_table(folder / "users.parquet").to_pydict() == {"user_id": INT_IDS.tolist()}
    assert pq.read_table(folder / "items.parquet").to_pydict() == {"item_id": list(range(10, 15))}
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_loaded_set_can_be_sampled(folder: Path) -> None:
    in_memory, loaded = (Sampler(interactions=data.train) for data in (prepared(), PreparedData.load(folder)))
    for expected, found in zip(in_memory.draw(1, 2, 9), loaded.draw(1, 2, 9), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_noticed(folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        file.write_bytes(changed)
        with pytest.raises(DataError, match=name) as caught:
            PreparedData.load(folder)
        assert "\n" not in str(caught.value)
    file.write_bytes(content)
    PreparedData.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_shortened_file_is_noticed(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(DataError, match=name):
        PreparedData.load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing|holds no {name}, so it is not a prepared set"):
        PreparedData.load(folder)


def test_another_format_version_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for version, advice in ((FORMAT_VERSION + 1, "upgrade ppt-ncf"), (0, "make it again"), (None, "make it again")):
        write_json(folder / "manifest.json", {**manifest, "format_version": version})
        with pytest.raises(DataError, match=f"format version {version} .* reads {FORMAT_VERSION}; {advice}"):
            PreparedData.load(folder)


def test_paths_without_a_prepared_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is not a folder; make .* `ppt-ncf prepare SOURCE --out .*nothing`"):
        PreparedData.load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        PreparedData.load(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        PreparedData.load(tmp_path / "other")


def test_saving_never_overwrites(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DataError, match="already exists"):
        prepared(STRING_IDS).save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    data = prepared(user_ids=np.array(["a", 5, 6], object))  # a mixture that Parquet cannot hold
    with pytest.raises(TypeError):
        data.save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    prepared().save(tmp_path / "again")
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_ranks_of_every_user_carry_the_original_ids(tmp_path: Path) -> None:
    ranks = Ranks(above=np.array([0, 1, 2]), equal=np.array([0, 2, 0]))
    found = Evaluation(ranks=ranks, data=prepared(STRING_IDS), ranking="full", engine="torch")
    found.save(tmp_path / "ranks.parquet")
    table = pq.read_table(tmp_path / "ranks.parquet")
    assert table.to_pydict() == {
        "user_id": STRING_IDS.tolist(),
        "item_id": [10, 11, 12],
        "above": [0, 1, 2],
        "equal": [0, 2, 0],
        "rank": [0, 3, 2],
    }
    read = read_ranks(tmp_path / "ranks.parquet")
    assert read.protocol == found.protocol == table.schema.metadata[b"protocol"].decode()
    data = {"sha256": None, "content": None}
    assert read.about == {"ranking": "full", "n_negatives": None, "engine": "torch", "data": data}
    for name, column in read.columns().items():
        assert column.tolist() == table[name].to_pylist()
    with pytest.raises(DataError, match="already exists"):
        found.save(tmp_path / "ranks.parquet")


def reseal(folder: Path, **changes: Any) -> None:
    """What another program's writer, or a hand, leaves: checksums that are right, of whatever is there."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    write_json(folder / "manifest.json", {**manifest, "files": files, **changes})


ONE_ROW = [[2, 4], [0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "test_items",
            np.array([0, 1, 2**31 - 1], np.int32),
            "test_items holds 0 to 2147483647; items must",
        ),
        ("test_items", np.array([0, -1, 2], np.int32), "test_items holds -1 to 2; items must be between 0 and 4"),
        ("test_items", np.array([0, 1], np.int32), "it must hold integers, one of each user, 3 in all"),
        ("test_items", np.array([0.0, 1.0, 2.0]), "test_items is float64"),
        ("test_items", np.array([0, 1, 2], np.uint64), "test_items is uint64"),
        ("test_negatives", np.array([[2, 4], [0, 10**9], [0, 1]], np.int32), "test_negatives holds 0 to 1000000000"),
        ("test_negatives", np.array([[2, 4], [0, -5], [0, 1]], np.int32), "test_negatives holds -5 to 4"),
        ("test_negatives", np.array([[2, 4], [0, 1]], np.int32), "integers, a row of each user, 3 in all"),
        ("test_negatives", np.array([2, 4, 0], np.int32), "integers, a row of each user"),
        ("history", np.array([1, 3, 5], np.int32), "history holds 1 to 5"),
        ("history", np.array([1, 3], np.int32), "history is int32"),
        ("validation_items", np.array([0, 1, 9], np.int32), "validation_items holds 0 to 9"),
        ("validation_negatives", np.array([[0, 5]] * 3, np.int32), "validation_negatives holds 0 to 5"),
        ("items", np.array([1, 3, 5], np.int32), "items must be between 0 and 4"),
        ("items", np.array([[1, 3, 4]], np.int32), "items is int32"),
        ("offsets", np.array([0, 2**63 - 1, -2, 3]), "offsets must ascend"),  # differences overflow to above 0
        ("offsets", np.array([], np.int64), "offsets must ascend"),
        ("offsets", np.array([0.0, 2, 2, 3]), "offsets is float64"),
    ],
)
def test_arrays_that_do_not_fit_never_reach_a_kernel(
    tmp_path: Path, name: str, array: NDArray[Any], message: str
) -> None:
    folder = tmp_path / "data"
    items, negatives = np.array([0, 1, 2], np.int32), np.array(ONE_ROW, np.int32)
    whole = replace(prepared(), validation_items=items, validation_negatives=negatives)
    whole.save(folder)
    PreparedData.load(folder)
    np.save(folder / f"{name}.npy", array)
    reseal(folder)
    with pytest.raises(DataError, match=rf"data does not fit together: .*{message}.*; make it again$") as caught:
        PreparedData.load(folder)
    assert "\n" not in str(caught.value)
    if name not in ("items", "offsets"):  # from Python, too
        with pytest.raises(ValueError, match=message):
            replace(whole, **{name: array})  # type: ignore[arg-type]


def test_every_user_and_item_has_an_id(folder: Path) -> None:
    users = (folder / "users.parquet").read_bytes()
    for ids, message in (
        ([1, 2], "there are 2 ids of 3 users"),
        ([1, None, 3], "1 missing; they must be int64 or strings"),
        ([1.0, 2.0, 3.0], "ids of type double"),
    ):
        pq.write_table(pa.table({"user_id": ids}), folder / "users.parquet")
        reseal(folder)
        with pytest.raises(DataError, match=message):
            PreparedData.load(folder)
    (folder / "users.parquet").write_bytes(users)
    reseal(folder, n_items=6)
    with pytest.raises(DataError, match="there are 5 ids of 6 items"):
        PreparedData.load(folder)


def test_a_folder_that_is_no_prepared_set_inside(folder: Path, tmp_path: Path) -> None:
    """Each kind of damage behind right checksums is one line."""

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            PreparedData.load(folder)
        assert "\n" not in str(caught.value)

    for n_items, protocol in (("5", "strict"), (None, "strict"), (True, "strict"), (5, "other"), (5, [])):
        reseal(folder, n_items=n_items, protocol=protocol)
        refused(r"manifest\.json says n_items = .* and protocol = ")
    reseal(folder, protocol="strict", n_items=5)
    for files, message in (
        (None, "lists no checksums"),
        ({}, r"offsets\.npy has no checksum"),
    ):
        reseal(folder, files=files)
        refused(message)
    reseal(folder)
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    for name in ("/dev/zero", "../data/items.npy"):
        reseal(folder, files={**files, name: "0"})
        refused("which is no name of a file in it")
    reseal(folder, files={**files, "pipe": "0"})
    os.mkfifo(folder / "pipe")  # to read it would last for ever
    refused("pipe is no file")
    (folder / "pipe").unlink()
    for content in (b"", b"\x93NUMPY", b"PK\3\4", (folder / "items.npy").read_bytes()[:-4]):
        (folder / "test_items.npy").write_bytes(content)
        reseal(folder)
        refused(r"test_items\.npy is no array of NumPy")
    prepared().save(tmp_path / "other")
    (folder / "test_items.npy").write_bytes((tmp_path / "other" / "test_items.npy").read_bytes())
    (folder / "items.parquet").write_bytes(b"PAR1")
    reseal(folder)
    refused(r"items\.parquet is no Parquet file of ids")
