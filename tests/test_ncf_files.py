import gzip
import json
import os
from pathlib import Path

import pytest

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.ncf_files import is_ncf_train_file, read_ncf_files
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256

# User 0 has item 2 twice; user 1's own held-out item is among the negatives, and 5 twice.
FILES = {
    "x.train.rating": "1\t0\t5\t10\n0\t2\t3\t11\n0\t1\t4\t12\n0\t2\t1\t13\n",
    "x.test.rating": "0\t3\t5\t20\n1\t4\t5\t21\n",
    "x.test.negative": "(0,3)\t6\t0\t5\n(1,4)\t5\t4\t5\n",
}


def write(folder: Path, packed: tuple[str, ...] = (), **changes: str | None) -> Path:
    changes = {"x." + name.replace("_", "."): content for name, content in changes.items()}
    for name, content in (FILES | changes).items():
        if content is None:
            continue
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (folder / name).write_text(content)
    return folder / ("x.train.rating.gz" if "x.train.rating" in packed else "x.train.rating")


@pytest.mark.parametrize("packed", [(), tuple(FILES), ("x.train.rating",), ("x.test.negative",)])
def test_reads_exactly_their_split(tmp_path: Path, packed: tuple[str, ...]) -> None:
    train = write(tmp_path, packed)
    data = read_ncf_files(train)
    assert (data.n_users, data.n_items) == (2, 7)
    assert data.train.items_of(0).tolist() == [1, 2]
    assert data.train.items_of(1).tolist() == [0]
    assert data.history is not None
    assert data.history.tolist() == [1, 2, 0]  # the later row of the repeated pair counts
    assert data.test_items.tolist() == [3, 4]
    assert data.test_negatives.tolist() == [[0, 5, 6], [4, 5, 5]]
    assert [data.test_items.dtype.name, data.test_negatives.dtype.name] == ["int32", "int32"]
    assert data.user_ids.tolist() == [0, 1]
    assert data.item_ids.tolist() == list(range(7))
    assert data.protocol_label == "leave-one-out, 3 negatives, published"
    manifest = json.loads(json.dumps(data.manifest))
    assert manifest["n_train_rows_read"] == 4
    assert manifest["n_duplicates_dropped"] == 1
    assert manifest["n_negatives_equal_to_held_out"] == 1
    assert manifest["n_held_out_in_train"] == 0
    assert manifest["source"]["files"]["train"] == {"name": train.name, "sha256": file_sha256(train)}
    assert str(tmp_path) not in json.dumps(manifest)


def test_survives_saving(tmp_path: Path) -> None:
    data = read_ncf_files(write(tmp_path))
    data.save(tmp_path / "prepared")
    loaded = PreparedData.load(tmp_path / "prepared")
    assert loaded.test_negatives.tolist() == data.test_negatives.tolist()
    assert loaded.manifest["source"] == data.manifest["source"]
    assert loaded.protocol == "published"


@pytest.mark.parametrize(
    "changes",
    [{"test_rating": "1\t4\t5\t21\n0\t3\t5\t20\n"}, {"test_negative": "(1,4)\t5\t4\t5\n(0, 3)\t6\t0\t5\n"}],
)
def test_test_lines_may_come_in_any_order(tmp_path: Path, changes: dict[str, str]) -> None:
    data = read_ncf_files(write(tmp_path, (), **changes))
    assert data.test_items.tolist() == [3, 4]
    assert data.test_negatives.tolist() == [[0, 5, 6], [4, 5, 5]]


def test_three_columns_and_ratings_of_zero(tmp_path: Path) -> None:
    data = read_ncf_files(
        write(tmp_path, train_rating="0\t1\t1\n0\t2\t0\n1\t3\t0.5\n", test_rating="0\t3\t0\n1\t4\t0\n")
    )
    assert data.train.items.tolist() == [1, 3]
    assert data.history is None
    assert data.manifest["n_ratings_of_zero_or_less_dropped"] == 1
    assert data.test_items.tolist() == [3, 4]


def test_counts_a_held_out_item_that_training_sees(tmp_path: Path) -> None:
    data = read_ncf_files(write(tmp_path, train_rating="0\t3\t1\t1\n1\t0\t1\t1\n"))
    assert data.manifest["n_held_out_in_train"] == 1


ERRORS: dict[str, tuple[dict[str, str | None], str]] = {
    "no test": ({"test_rating": None}, r"x\.test\.rating is missing \(nor is there x\.test\.rating\.gz\)"),
    "no negatives": ({"test_negative": None}, r"x\.test\.negative is missing"),
    "empty train": ({"train_rating": ""}, r"x\.train\.rating is empty"),
    "empty test": ({"test_rating": "\n"}, r"x\.test\.rating is empty"),
    "two columns": ({"train_rating": "0\t1\n"}, "line 1 has 2 tab-separated values; user, item and rating"),
    "ragged train": ({"train_rating": "0\t1\t1\t1\n1\t0\t1\n"}, "line 2 has 3 values where 4 are needed"),
    "text": (
        {"train_rating": "0\t1\t1\t1\n1\tx\t1\t1\n"},
        "line 2 has 'x' where the item should be an integer",
    ),
    "fraction": (
        {"train_rating": "0\t1.5\t1\t1\n"},
        r"line 1 has '1\.5' where the item should be an integer",
    ),
    "nan rating": ({"train_rating": "0\t1\tnan\t1\n"}, "line 1 has no rating"),
    "negative id": ({"train_rating": "0\t-1\t1\t1\n"}, "holds the id -1; ids must be"),
    "huge id": ({"train_rating": "0\t2147483647\t1\t1\n"}, "holds the id 2147483647; ids must be"),
    "user without test": (
        {"train_rating": "7\t1\t1\t1\n"},
        r"test\.rating has no line for user 7, who is in",
    ),
    "user gap": ({"test_rating": "0\t3\t5\t20\n2\t4\t5\t21\n"}, r"test\.rating has no line for user 1"),
    "user twice": (
        {"test_rating": "0\t3\t5\t20\n0\t4\t5\t21\n"},
        r"test\.rating has more than one line for user 0",
    ),
    "fewer tests": (
        {"test_rating": "0\t3\t5\t20\n"},
        r"test\.rating has no line for user 1, and x\.test\.neg",
    ),
    "fewer negatives": (
        {"test_negative": "(0,3)\t6\n"},
        r"test\.negative has no line for user 1, and x\.test\.rat",
    ),
    "other item": (
        {"test_negative": "(0,3)\t6\n(1,5)\t6\n"},
        r"negative has item 5 for user 1, and .* has item 4",
    ),
    "ragged": ({"test_negative": "(0,3)\t6\t1\n(1,4)\t6\n"}, "line 2 has 2 values where 3 are needed"),
    "no pair": ({"test_negative": "(0,3)\t6\n1,4\t6\n"}, r"row 2 begins with '1,4', not with \(user,item\)"),
    "text negative": (
        {"test_negative": "(0,3)\t6\n(1,4)\tx\n"},
        "line 2 has 'x' where the negative 1 should be",
    ),
    "no tabs at all": ({"test_rating": "x" * 200_000}, "line 1 cannot be split into values"),
    "only pairs": ({"test_negative": "(0,3)\n(1,4)\n"}, "no tab-separated negatives"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    changes, message = ERRORS[case]
    train = write(tmp_path, (), **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_ncf_files(train)
    assert "\n" not in str(caught.value)


MLPERF = {
    "train-ratings.csv": "1\t0\t1\n0\t2\t1\n0\t1\t1\n",
    "test-ratings.csv": "0\t3\t1\n1\t4\t1\n",
    "test-negative.csv": "6\t0\t5\n5\t4\t5\n",
}


def write_mlperf(folder: Path, **changes: str | None) -> Path:
    named = {f"{name.replace('_', '-')}.csv": text for name, text in changes.items()}
    for name, text in (MLPERF | named).items():
        if text is not None:
            (folder / name).write_text(text)
    return folder / "train-ratings.csv"


def test_reads_the_files_of_mlperf_s_converter(tmp_path: Path) -> None:
    data = read_ncf_files(write_mlperf(tmp_path))
    assert (data.n_users, data.n_items) == (2, 7)
    assert data.train.items_of(0).tolist() == [1, 2]
    assert data.train.items_of(1).tolist() == [0]
    assert data.history is None
    assert data.test_items.tolist() == [3, 4]
    assert data.test_negatives.tolist() == [[0, 5, 6], [4, 5, 5]]
    assert data.protocol_label == "leave-one-out, 3 negatives, mlperf"
    assert data.manifest["source"]["format"] == "mlperf"
    assert data.manifest["n_negatives_equal_to_held_out"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_ratings": None}, r"test-ratings\.csv is missing .* must lie side by side"),
        ({"test_negative": "6\t0\t5\n"}, r"test-negative\.csv has no line for user 1, and test-ratings\.csv has one"),
        ({"test_ratings": "0\t3\t1\n"}, r"test-ratings\.csv has no line for user 1, and test-negative\.csv has one"),
        ({"test_negative": "6\t0\t5\n5\t4\n"}, "line 2 has 2 values where 3 are needed"),
        ({"train_ratings": "0,1,1\n"}, "line 1 has 1 tab-separated values"),
    ],
)
def test_bad_files_of_mlperf_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_ncf_files(write_mlperf(tmp_path, **changes))


def test_train_ratings_alone_are_ordinary_ratings(tmp_path: Path) -> None:
    assert is_ncf_train_file(write_mlperf(tmp_path))
    (tmp_path / "test-negative.csv").unlink()
    assert not is_ncf_train_file(tmp_path / "train-ratings.csv")


def test_train_file_names(tmp_path: Path) -> None:
    assert is_ncf_train_file(Path("a/ml-1m.train.rating"))
    assert is_ncf_train_file(Path("ml-1m.train.rating.gz"))
    assert not is_ncf_train_file(Path("ml-1m.test.rating"))
    assert not is_ncf_train_file(Path("ratings.csv"))
    with pytest.raises(DataError, match="must end in"):
        read_ncf_files(tmp_path / "ratings.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_ncf_files(tmp_path / "x.train.rating")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path, tuple(FILES))
    train.write_bytes(train.read_bytes()[:-9])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_ncf_files(train)


def test_the_published_movielens_split() -> None:
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    data = read_ncf_files(Path(folder) / "ml-1m-ncf" / "ml-1m.train.rating.gz")
    assert (data.n_users, data.n_items, len(data.train)) == (6_040, 3_706, 994_169)
    assert data.test_negatives.shape == (6_040, 99)
    assert data.manifest["n_negatives_equal_to_held_out"] == 156
    assert data.manifest["n_duplicates_dropped"] == 0
    assert data.test_items[:3].tolist() == [25, 133, 207]
