import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ratings import interactions, memory_limit, text_tables
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.filters import Filters
from data_prep.ratings.growing_arrays import GrowingArray
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.memory_limit import available_bytes, bytes_of, needed_bytes
from data_prep.ratings.prepare import Settings, prepare
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.sampling import draw_test_negatives
from data_prep.ratings.stored_ratings import Room, StoredColumns, StoredRatings
from data_prep.ratings.streamed import prepare_stored
from data_prep.ratings.streamed_reading import StreamedRatings
from ppt_commands.programs import main
from ppt_core.errors import DataError

Table = list[tuple[Any, Any, Any, Any, Any]]
# What the rows below are said to be is said of the whole, too: it stands in the manifests that are compared.
pytestmark = pytest.mark.filterwarnings("ignore::ppt_core.errors.DataWarning")

BLOCK_BYTES = 400  # of a csv: some twenty rows
OPTIONS: dict[str, Any] = {"min_ratings": 3, "n_negatives": 2, "progress": False}


def rows(seed: int = 0, n: int = 240) -> Table:
    """Users, items, times, ratings and events with repeated pairs, ties, and users of one item or of few rows."""
    draw = random.Random(seed)
    table: Table = [
        (
            draw.randrange(1, 30),
            int(30 * draw.random() ** 2),
            draw.randrange(60),
            draw.randrange(1, 6),
            draw.choice("ab"),
        )
        for _ in range(n)
    ]
    return [*table, *((99, 5, time, 3, "a") for time in range(4)), (98, 77, 1, 1, "b")]


def text(table: Table, separator: str = ",", header: str = "user,item,time,rating,event") -> str:
    lines = [separator.join(map(str, row)) for row in table]
    return "\n".join([header.replace(",", separator), *lines] if header else lines) + "\n"


def changed(place: int, change: Callable[[int, Any], Any]) -> Table:
    """`rows` with another value in one column, made from the row's number and the value."""
    return [(*row[:place], change(n, row[place]), *row[place + 1 :]) for n, row in enumerate(rows())]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every file seem too large, and read and prepare in parts that are small."""

    def begin() -> None:
        monkeypatch.setattr(memory_limit, "needed_bytes", lambda n_rows, settings: 10**15)
        monkeypatch.setattr(memory_limit, "room", lambda limit: Room(block_rows=7, part_bytes=4_000))
        monkeypatch.setattr(text_tables, "_BLOCK_BYTES", BLOCK_BYTES)
        monkeypatch.setattr(interactions, "_CHECKED_ITEMS", 10)

    return begin


def both(tmp_path: Path, in_parts: Callable[[], None], source: Any, **options: Any) -> PreparedData:
    """Prepare in memory and in parts, and compare all bytes."""
    options = {**OPTIONS, **options}
    whole = prepare_source(source, tmp_path / "whole", **options)
    in_parts()
    parts = prepare_source(source, tmp_path / "parts", memory="1GB", **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("*.partial"))
    assert parts.manifest == whole.manifest
    np.testing.assert_array_equal(parts.user_ids, whole.user_ids)
    return parts


def prepared_or_said(act: Callable[[], Any]) -> Any:
    """What is made, or what the error says."""
    try:
        return act()
    except DataError as error:
        return str(error)


def table_of(table: Table, **types: pa.DataType) -> pa.Table:
    names = ("user", "item", "time", "rating", "event")
    columns = dict(zip(names, map(list, zip(*table, strict=True)), strict=True))
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


TEXTS = {
    "integers": text(rows()),
    "strings": text(changed(0, lambda n, user: f"u{user}")),
    "some strings": text(changed(1, lambda n, item: f"x{item}" if n > 200 else item)),
    "leading zeros": text(changed(0, lambda n, user: f"0{user}" if n == 150 else user)),
    "one and 1.0": text(changed(0, lambda n, user: (user, f"{user}.0", f" {user}")[n % 3])),
    "not all are numbers": text(changed(1, lambda n, item: "x" if n == 190 else (item, f"{item}.0")[n % 2])),
    "late float times": text(changed(2, lambda n, time: time + 0.5 if n == 170 else time)),
    "dates": text(changed(2, lambda n, time: f"2020-01-{time % 28 + 1:02} 10:00:00")),
    "units": text(changed(2, lambda n, time: (1_500_000_000 + time) * (1000 if n > 120 else 1))),
    "constant times": text(changed(2, lambda n, time: 7)),
    "no times": text(rows(), header="user,item,x,rating,event"),
    "ratings that are none": text(changed(3, lambda n, rating: "good" if n > 180 else rating)),
    "no header": text([(*row[:2], row[3], 10**9 + row[2], "") for row in rows()], "\t", "").replace("\t\n", "\n"),
    "two colons": text([(*row[:2], row[3], 10**9 + row[2], "") for row in rows()], "::", "").replace("::\n", "\n"),
    "quoted": text(changed(1, lambda n, item: f'"a,{item}"')),
}


class TestTheSameBytes:
    @pytest.mark.parametrize("shape", TEXTS)
    def test_texts(self, tmp_path: Path, in_parts: Callable[[], None], shape: str) -> None:
        (tmp_path / "r.csv").write_text(TEXTS[shape])
        data = both(tmp_path, in_parts, str(tmp_path / "r.csv"))
        assert len(data.train) > 50
        if shape == "one and 1.0":
            assert data.user_ids.dtype == np.int64

    @pytest.mark.parametrize(
        "options",
        [
            {"protocol": "mlperf", "n_negatives": 9},
            {"validation": True, "seed": 5},
            {"order": "file"},
            {"order": "random", "seed": 3},
            {"order": "random", "validation": True, "protocol": "mlperf"},
            {"min_item_ratings": 5, "min_ratings": 4, "n_negatives": 1},
            {"min_item_ratings": 4, "validation": True},
            {"n_negatives": 21},
            {"min_rating": 3},
            {"events": "b", "min_rating": 2},
            {"min_ratings": 1},
        ],
    )
    @pytest.mark.parametrize("shape", ["integers", "no times"])
    def test_options(self, tmp_path: Path, in_parts: Callable[[], None], options: dict[str, Any], shape: str) -> None:
        (tmp_path / "r.csv").write_text(TEXTS[shape])
        data = both(tmp_path, in_parts, str(tmp_path / "r.csv"), **options)
        if "n_negatives" in options and options["n_negatives"] == 21:
            assert data.manifest["users_dropped"]["without_negatives"] > 0
        if "min_item_ratings" in options:
            assert data.manifest["rows_dropped"]["below_min_item_ratings"] > 0

    @pytest.mark.parametrize(
        "types",
        [
            {},
            {"user": pa.uint64(), "item": pa.int16(), "time": pa.int32()},
            {"user": pa.float64(), "time": pa.float64()},
            {"user": pa.string(), "item": pa.large_string()},
            {"time": pa.timestamp("s")},
            {"item": pa.dictionary(pa.int8(), pa.string())},
        ],
    )
    def test_parquet(self, tmp_path: Path, in_parts: Callable[[], None], types: dict[str, pa.DataType]) -> None:
        table = rows()
        for place, name in enumerate(("user", "item")):
            if "string" in str(types.get(name, "")):
                table = [(*row[:place], f" n{row[place]}", *row[place + 1 :]) for row in table]
        pq.write_table(table_of(table, **types), tmp_path / "r.parquet", row_group_size=50)
        both(tmp_path, in_parts, str(tmp_path / "r.parquet"), events="a")

    def test_several_files_of_integer_and_other_times(self, tmp_path: Path, in_parts: Callable[[], None]) -> None:
        table = rows()
        pq.write_table(table_of(table[:90]), tmp_path / "1.parquet")
        pq.write_table(table_of(table[90:], time=pa.float32()), tmp_path / "2.parquet")
        both(tmp_path, in_parts, [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")])

    def test_a_folder_of_packed_texts(self, tmp_path: Path, in_parts: Callable[[], None]) -> None:
        folder = tmp_path / "parts_of_a_table"
        folder.mkdir()
        (folder / "1.csv").write_text(text(rows(1)))
        (folder / "2.csv.gz").write_bytes(gzip.compress(text(rows(2)).encode()))
        both(tmp_path, in_parts, str(folder))

    def test_a_copy_of_a_known_data_set(self, tmp_path: Path, in_parts: Callable[[], None]) -> None:
        (tmp_path / "copy.csv").write_text(TEXTS["integers"])
        data = both(tmp_path, in_parts, "ml-1m", source_file=tmp_path / "copy.csv")
        assert any("copy.csv holds 245 ratings" in sentence for sentence in data.warnings)

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 3)), max_size=60),
        st.integers(1, 4),
        st.integers(1, 4),
        st.booleans(),
        st.sampled_from([None, "file", "random"]),
        st.booleans(),
    )
    def test_any_rows(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        found: list[tuple[int, int, int]],
        min_ratings: int,
        min_item_ratings: int,
        validation: bool,
        order: Any,
        has_times: bool,
    ) -> None:
        found = [(9, 90 + n % 4, 0) for n in range(8)] + found + [(8, 80 + n % 4, 3 - n % 4) for n in range(8)]
        users, items, times = (np.array(column) for column in zip(*found, strict=True))
        ratings = Ratings.from_ids(users, items, times if has_times else None)
        filters = Filters(min_ratings=min_ratings, min_item_ratings=min_item_ratings)
        chosen = Settings(filters=filters, n_negatives=3, order=order, validation=validation)
        arguments: dict[str, Any] = {
            "n_negatives": 3,
            "order": order,
            "validation": validation,
            "source": {"name": "x"},
        }
        folder = tmp_path_factory.mktemp("rows")
        stored = StoredColumns(folder / "rows", {"user": np.int32, "item": np.int32, "time": np.int64})
        stored.append(user=ratings.users, item=ratings.items, time=ratings.times)
        on_disk = StoredRatings(
            columns=stored,
            user_numbers=None,
            item_numbers=None,
            user_ids=ratings.user_ids,
            item_ids=ratings.item_ids,
            has_times=has_times,
            time_unit=None,
            block_rows=5,
        )
        whole = prepared_or_said(
            lambda: prepare(ratings, min_ratings=min_ratings, min_item_ratings=min_item_ratings, **arguments)
        )
        (folder / "set").mkdir()
        read = StreamedRatings(on_disk, None, folder / "set", Room(5, 500))  # type: ignore[arg-type]
        parts = prepared_or_said(lambda: prepare_stored(read, chosen, source={"name": "x"}))
        if isinstance(whole, str) or isinstance(parts, str):
            assert parts == whole
            return
        whole.save(folder / "whole")
        parts.write(folder / "set")
        assert contents(folder / "set") == contents(folder / "whole")


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("name", "content", "options", "message"),
        [
            (
                "r.jsonl",
                '{"user": 1, "item": 2}\n',
                {},
                "cannot be prepared in parts: .*r.jsonl is json lines; convert it",
            ),
            ("r.csv", TEXTS["integers"], {"skip_bad_rows": True}, "in memory alone .skip_bad_rows=., or allow more"),
            ("r.csv", TEXTS["integers"], {"split_time": 30}, "a split of your own is made of all rows at once"),
            (
                "r.csv",
                text(changed(2, lambda n, time: f"{time % 12 + 1}/01/2020")),
                {},
                "several ways; .* time_format=",
            ),
            ("r.csv", TEXTS["integers"].replace(",5,a", ",5", 1), {}, r"r.csv: line \d+ has 4 values"),
            ("r.csv", TEXTS["integers"] + "3,,4,5,a\n", {}, "r.csv: line 247 has no item"),
            ("r.csv", TEXTS["integers"] + "3,4,soon,5,a\n", {}, "r.csv: line 247 has 'soon' where the time should be"),
            ("r.csv", TEXTS["integers"], {"events": "c"}, "r.csv has no event 'c'; its events are"),
            ("r.csv", TEXTS["integers"], {"min_rating": 6}, "no row has a rating of 6 .the highest is 5."),
            ("r.csv", TEXTS["integers"], {"min_ratings": 500}, "no user has at least 500 ratings"),
            ("r.csv", "user,item\n", {}, "r.csv has a header line and no ratings"),
        ],
    )
    def test_in_one_line_that_leaves_nothing_behind(
        self,
        tmp_path: Path,
        in_parts: Callable[[], None],
        name: str,
        content: str,
        options: dict[str, Any],
        message: str,
    ) -> None:
        (tmp_path / name).write_text(content)
        in_parts()
        with pytest.raises(ValueError, match=message) as caught:
            prepare_source(str(tmp_path / name), tmp_path / "out", memory="1GB", **{**OPTIONS, **options})
        assert "\n" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == [name]

    def test_a_set_without_a_folder(self, tmp_path: Path, in_parts: Callable[[], None]) -> None:
        (tmp_path / "r.csv").write_text(TEXTS["integers"])
        in_parts()
        with pytest.raises(DataError, match="it is not written to a folder; name one with out="):
            prepare_source(str(tmp_path / "r.csv"), memory=10**9, **OPTIONS)

    def test_synthetic_data(self, tmp_path: Path) -> None:
        sizes: dict[str, Any] = {"n_users": 10**5, "n_items": 10**4, "n_interactions": 10**8}
        with pytest.raises(DataError, match=r"synthetic data may need .* memory= allows 1\.0 GB, .* made in memory"):
            prepare_source("synthetic", tmp_path / "out", memory="1GB", **sizes)

    def test_without_a_limit_what_cannot_be_streamed_is_read_in_memory(
        self, tmp_path: Path, in_parts: Callable[[], None]
    ) -> None:
        (tmp_path / "r.csv").write_text(TEXTS["integers"])
        in_parts()
        data = prepare_source(str(tmp_path / "r.csv"), **OPTIONS)
        assert data.path is None


class TestMemory:
    @pytest.mark.parametrize(
        ("size", "n_bytes"),
        [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("2g", 2 * 10**9), (10**9, 10**9)],
    )
    def test_sizes(self, size: str | int, n_bytes: int) -> None:
        assert bytes_of(size) == n_bytes

    @pytest.mark.parametrize("size", ["", "GB", "-4GB", "4XB", "much", "4 GB 2", "nan"])
    def test_what_is_no_size(self, size: str) -> None:
        with pytest.raises(ValueError, match="must be a size such as 4GB, 500MB or"):
            bytes_of(size)

    def test_the_least(self) -> None:
        with pytest.raises(
            ValueError, match="memory is '4'; it must be at least 500MB, most of which the program itself takes"
        ):
            bytes_of("4")

    def test_the_command_names_its_option(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(main, ["prepare", "x.csv", "--out", str(tmp_path / "o"), "--memory", "lots"])
        assert result.exit_code == 2
        assert "Invalid value for '--memory': memory is 'lots'; it must be a size such as 4GB" in result.output

    def test_a_machine_has_some(self) -> None:
        found = available_bytes()
        assert found is None or found > 10**6

    def test_more_rows_users_and_negatives_need_more(self) -> None:
        base = Settings(filters=Filters(min_ratings=20), n_negatives=999)
        more = Settings(filters=Filters(min_ratings=2), n_negatives=999, validation=True)
        assert needed_bytes(10**6, base) < needed_bytes(2 * 10**6, base) < needed_bytes(2 * 10**6, more)

    @pytest.mark.parametrize("memory", [None, "2GB"])
    def test_a_small_file_is_prepared_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str | None
    ) -> None:
        monkeypatch.setattr(memory_limit, "read_streamed", None)
        (tmp_path / "r.csv").write_text(TEXTS["integers"])
        assert len(prepare_source(str(tmp_path / "r.csv"), tmp_path / "out", memory=memory, **OPTIONS).train) > 50


class TestParts:
    @pytest.mark.parametrize("shape", [(0,), (1,), (1234,), (0, 3), (70, 3)])
    def test_a_growing_array_is_the_file_of_the_whole(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        whole = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
        array = GrowingArray(tmp_path / "parts.npy", np.int32, shape[1:])
        for start in range(0, len(whole), 100):
            array.append(whole[start : start + 100])
        array.finish()
        np.save(tmp_path / "whole.npy", whole)
        assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
        with pytest.raises(ValueError, match="rows are int64"):
            array.append(whole.astype(np.int64))

    @pytest.mark.parametrize("protocol", ["strict", "mlperf"])
    def test_some_users_get_the_negatives_that_they_get_among_all(self, protocol: Any) -> None:
        users, items = np.repeat(np.arange(6), 3), np.tile([0, 2, 4], 6)
        train, held_out = Interactions.from_pairs(users, items, n_users=6, n_items=20), np.full(6, 7, np.int32)
        whole = draw_test_negatives(train, held_out, 5, protocol=protocol, seed=1)
        some = Interactions(offsets=train.offsets[4:] - train.offsets[4], items=train.items[12:], n_items=20)
        part = draw_test_negatives(some, held_out[4:], 5, protocol=protocol, seed=1, first_user=4)
        np.testing.assert_array_equal(part, whole[4:])

    def test_items_are_checked_over_the_ends_of_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(interactions, "_CHECKED_ITEMS", 3)
        items = np.array([1, 2, 3, 0, 4, 5, 5, 6], np.int32)
        with pytest.raises(ValueError, match="strictly ascending within each user"):
            Interactions(offsets=np.array([0, 3, 8]), items=items, n_items=7)
        with pytest.raises(ValueError, match="strictly ascending within each user"):
            Interactions(offsets=np.array([0, 6, 8]), items=items, n_items=7)
        assert len(Interactions(offsets=np.array([0, 3, 3, 6, 8, 8]), items=items, n_items=7)) == 8
        with pytest.raises(ValueError, match="items must be between 0 and 5"):
            Interactions(offsets=np.array([0, 3, 6, 8]), items=items, n_items=6)
