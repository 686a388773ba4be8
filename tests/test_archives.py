import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_prep import tar_members
from data_prep.ratings.archives import Source, find_source
from data_prep.ratings.readers import read_ratings
from ppt_core.errors import DataError

CSV = b"user,item,time\n1,2,3\n"
FLAGS = (6, 8)  # offsets of the flag bits in a local and in a central header
METHOD = (8, 10)


def read(path: Path) -> bytes:
    with find_source(path).open() as stream:
        return stream.read()


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return path


def patch_headers(path: Path, offsets: tuple[int, int], value: int) -> None:
    content = bytearray(path.read_bytes())
    for signature, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        content[content.index(signature) + offset] = value
    path.write_bytes(content)


def test_bytes_are_found_whatever_they_are_packed_in(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(CSV)
    (tmp_path / "gzip").write_bytes(gzip.compress(CSV))
    zipped = write_zip(tmp_path / "zip", ratings_csv=CSV)
    both = write_zip(tmp_path / "both", a_tsv_gz=gzip.compress(CSV))
    assert [find_source(path).member for path in (zipped, both)] == ["ratings.csv", "a.tsv.gz"]
    for path in (tmp_path / "plain", tmp_path / "gzip", zipped, both):
        assert read(path) == CSV
    assert str(find_source(both)) == f"{both} (a.tsv.gz)"
    assert find_source(both) == Source(path=both, member="a.tsv.gz", archive="zip", compression="gzip")


def test_the_member_that_looks_like_data_wins_over_the_rest(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", readme_txt=b"read me", picture_png=b"x", events_csv=CSV)
    assert find_source(path).member == "events.csv"
    # With nothing that looks like data, the only member is taken.
    assert find_source(write_zip(tmp_path / "y.zip", data=CSV)).member == "data"


@pytest.mark.parametrize(
    ("offsets", "value", "message"),
    [(FLAGS, 1, "password required"), (METHOD, 99, "compression method is not supported")],
)
def test_a_zip_that_needs_another_tool_says_so(
    tmp_path: Path, offsets: tuple[int, int], value: int, message: str
) -> None:
    path = write_zip(tmp_path / "x.zip", a_csv=CSV)
    patch_headers(path, offsets, value)
    with pytest.raises(DataError, match=rf"x\.zip \(a\.csv\) cannot be unpacked \(.*{message}.*unpack it yourself"):
        find_source(path)


def test_a_zip_with_a_hole_is_damaged(tmp_path: Path) -> None:
    """Its directory, at the end, is there, and the header of its member is not."""
    path = write_zip(tmp_path / "x.zip", readme_txt=b"read me", a_csv=CSV)
    content = path.read_bytes()
    start = content.rindex(b"PK\x03\x04")
    path.write_bytes(content[:start] + bytes(30) + content[start + 30 :])
    with pytest.raises(DataError, match=r"x\.zip \(a\.csv\) is truncated or damaged \(.*fetch it again"):
        read(path)


def test_empty_files_and_members_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataError, match="empty is empty"):
        find_source(tmp_path / "empty")
    with pytest.raises(DataError, match=r"x\.zip \(a\.csv\) is empty"):
        find_source(write_zip(tmp_path / "x.zip", a_csv=b""))


def test_damage_is_noticed_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(CSV * 1000)[:-4])
    with pytest.raises(DataError, match=r"x\.csv\.gz is truncated or damaged"), find_source(path).open() as stream:
        stream.read()


def test_more_than_ten_candidates_are_counted(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", **{f"part{number:02}_csv": CSV for number in range(12)})
    with pytest.raises(DataError, match=r"12 files .* \(part00\.csv, .*part09\.csv and 2 more\); unpack it and name"):
        find_source(path)


def write_tar(path: Path, *members: tarfile.TarInfo, content: bytes = CSV) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info in members or (tarfile.TarInfo("ratings.csv"),):
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def extended(kind: bytes, n_bytes: int) -> bytes:
    """The header that announces ``n_bytes`` of a long name or of pax, and nothing behind it."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, n_bytes
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_tar_whose_header_would_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "bomb.tar").write_bytes(extended(kind, 1 << 33) + bytes(2048))
    with pytest.raises(DataError, match=r"bomb.tar has a header of 8,589,934,592 bytes, more than .*; do not use"):
        find_source(tmp_path / "bomb.tar")
    with (
        pytest.raises(DataError, match=r"bomb.tar has a header of"),
        tar_members.open_tar(tmp_path / "bomb.tar") as archive,
    ):
        list(tar_members.members_of(tmp_path / "bomb.tar", archive))


def test_an_archive_of_very_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MOST_MEMBERS", 3)
    monkeypatch.setattr("data_prep.ratings.archives.MOST_MEMBERS", 3)
    for n in (3, 4):
        names = [f"{number}.txt" for number in range(n - 1)]
        paths = (
            write_tar(tmp_path / f"{n}.tar.gz", *map(tarfile.TarInfo, (*names, "ratings.csv"))),
            write_zip(tmp_path / f"{n}.zip", ratings_csv=CSV, **dict.fromkeys(names, CSV)),
        )
        for path in paths:
            if n == 3:
                assert read(path) == CSV
            else:
                with pytest.raises(DataError, match="has more than 3 members; do not use this archive"):
                    read(path)


def test_a_line_of_a_tar_archive_is_named(tmp_path: Path) -> None:
    lines = ["userId,movieId,rating,timestamp", *(f"{n},{n},5,{n}" for n in range(9)), "1,2,5,five"]
    path = write_tar(tmp_path / "ratings.tar.gz", content="\n".join(lines).encode())
    with pytest.raises(DataError, match=r"ratings.tar.gz \(ratings.csv\): line 11 has 'five' where the time"):
        read_ratings(path)
