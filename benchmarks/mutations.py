"""Valid content of files, with a few mutations: bits, cuts, other numbers and values, sealed anew if need be."""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

_NASTY = (
    b"", b"0", b"-1", b"1e999", b"nan", b"-inf", b"9" * 400, b"2147483648", b"9223372036854775808", b"\x00", b"\r",
    b"-9223372036854775809", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\n\n", b'"', b"'", b",", b"::", b"\t",
    b"\\", b"{", b"[" * 3000, b"null", b"true", b"../../etc/passwd", b"/dev/zero", b"x" * 70000, b"\xe2\x80\xae",
    b"1" + b"0" * 30, b"%s%n", b"PK\x03\x04", b"PAR1", b"\x1f\x8b", b"ARROW1", b"\x93NUMPY", b"#",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 2**31, 2**31 - 1, 2**63, 10**30, 0.5, -1e308, 1e308, "", "x", "../x", "/dev/zero",
    "\x1b[31m", [], {}, [[]], [1, 2, 3], {"a": 1}, "9" * 300, [None], float("nan"), float("inf"),
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three mutations."""
    octets = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(octets) + 1)
        n = min(len(octets) - at, rng.choice((1, 2, 4, 8, 64, 1000)))
        match rng.randrange(10):
            case 0 if at < len(octets):
                octets[at] ^= 1 << rng.randrange(8)
            case 1:
                octets[at : at + n] = rng.randbytes(n)
            case 2:
                del octets[at : at + n]
            case 3:
                del octets[at:]
            case 4:
                octets[at:at] = rng.choice(_NASTY)
            case 5:
                octets[at : at + n] = rng.choice(_NASTY)
            case 6:
                octets[at:at] = octets[at : at + n] * rng.randrange(1, 50)
            case 7:
                octets[at : at + n] = bytes(n)
            case 8 if len(octets) >= 8:
                at = rng.randrange(len(octets) - 7)
                octets[at : at + 8] = struct.pack("<q", rng.choice((-1, 0, 1, 2**31, 2**40, -(2**63), len(octets))))
            case _ if len(octets) >= 4:
                at = rng.randrange(len(octets) - 3)
                octets[at : at + 4] = struct.pack("<i", rng.choice((-1, 0, 1, 2**31 - 1, -(2**31), 10**6)))
    return bytes(octets)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts gone, copied, or of another type or size."""
    value = json.loads(json.dumps(value))
    holders: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict | list) and node:
            holders.append(node)
            for inner in node.values() if isinstance(node, dict) else node[:20]:
                walk(inner)

    walk(value)
    if not holders:
        return rng.choice(_VALUES)
    holder = rng.choice(holders)
    keys = [key for key in holder if key not in ("sha256", "format_version")] if isinstance(holder, dict) else None
    if keys == []:
        return value
    key = rng.choice(keys) if keys else rng.randrange(len(holder))
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("x", "files", "n_items", "../x"))] = holder[key]
        case 2 if isinstance(holder[key], int | float):
            holder[key] = rng.choice((-1, 2, 1000, 10**9)) * holder[key] + rng.choice((0, 1, -1))
        case _:
            holder[key] = rng.choice(_VALUES)
    return value


def sealed_json(content: bytes, rng: random.Random) -> bytes:
    """A sealed document with other values, sealed anew."""
    from ppt_core.runs.files import NO_DIGEST, seal

    value = mutated_value(json.loads(content), rng)
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    return seal(json.dumps({**value, "sha256": NO_DIGEST}, indent=2).encode())


def sealed_tensors(content: bytes, rng: random.Random) -> bytes:
    """A sealed tensor file with another header, other metadata or other numbers, sealed anew."""
    from ppt_core.runs.files import NO_DIGEST, seal

    n = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + n]), content[8 + n :]
    about = json.loads(header.pop("__metadata__")["ppt"])
    match rng.randrange(4):
        case 0:
            header = mutated_value(header, rng)
        case 1:
            about["metadata"] = mutated_value(about["metadata"], rng)
        case 2:
            rest = _other_numbers(rest, rng)
        case _:
            one, other = rng.choice(list(header)), rng.choice(list(header))
            header[one], header[other] = header[other], header[one]
    if not isinstance(header, dict):
        header = {"x": header}
    text = json.dumps({"__metadata__": {"ppt": json.dumps({**about, "sha256": NO_DIGEST})}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return seal(len(text).to_bytes(8, "little") + text + rest)


def _other_numbers(content: bytes, rng: random.Random) -> bytes:
    octets = bytearray(content)
    for _ in range(rng.choice((1, 3, 100))):
        if len(octets) >= 8:
            at = rng.randrange(len(octets) // 4 - 1) * 4
            octets[at : at + 4] = struct.pack("<i", rng.choice((-1, 2**31 - 1, -(2**31), 0, 7, 2143289344, 10**6)))
    return bytes(octets)


def mutated_array(content: bytes, rng: random.Random) -> bytes:
    """A ``.npy`` with another header or other numbers."""
    end = content.index(b"\n") + 1
    if rng.random() < 0.5:
        return content[:end] + _other_numbers(content[end:], rng)
    old = content[10:end].decode()
    words = (
        "'<i4'",
        "'<i8'",
        "'|O'",
        "'<f8'",
        "'<f4'",
        "True",
        "False",
        "(",
        ")",
        ",",
        "0",
        "1",
        "99999999999",
        "-1",
        "1e9",
    )
    parts = list(filter(None, old.replace(",", " , ").replace("(", " ( ").split(" ")))
    for _ in range(rng.randrange(1, 3)):
        parts[rng.randrange(len(parts))] = rng.choice(words)
    text = " ".join(parts).encode()
    return content[:8] + struct.pack("<H", len(text)) + text + content[end:]


def array_or_bytes(content: bytes, rng: random.Random) -> bytes:
    """`mutated_array` of most arrays, `mutated` of a rest and of other files."""
    if content[:6] == b"\x93NUMPY" and rng.random() < 0.8:
        return mutated_array(content, rng)
    return mutated(content, rng)


def lines_or_bytes(content: bytes, rng: random.Random) -> bytes:
    """A line of JSON with another value, or `mutated`."""
    if rng.random() < 0.3:
        return mutated(content, rng)
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutated_value(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def mutated_inside(content: bytes, rng: random.Random) -> bytes:
    """What is packed, mutated and packed again."""
    if content[:2] == b"PK":
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, mutated(old.read(name), rng))
        return out.getvalue()
    packers: dict[bytes, tuple[Any, Any]] = {
        b"\x1f\x8b": (gzip.decompress, partial(gzip.compress, compresslevel=1)),
        b"BZ": (bz2.decompress, partial(bz2.compress, compresslevel=1)),
        b"\xfd7": (lzma.decompress, partial(lzma.compress, preset=0)),
    }
    unpack, pack = packers[content[:2]]
    inner = unpack(content)
    if inner[257:262] != b"ustar":
        packed: bytes = pack(mutated(inner, rng))
        return packed
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(inner)) as old_tar, tarfile.open(fileobj=out, mode="w") as new_tar:
        members = old_tar.getmembers()
        chosen = rng.choice(members)
        for each in members:
            octets = old_tar.extractfile(each).read()  # type: ignore[union-attr]
            if each is chosen:
                octets = mutated(octets, rng)
            each.size = len(octets)
            new_tar.addfile(each, io.BytesIO(octets))
    packed = pack(out.getvalue())
    return packed


def seal_folder(path: Path) -> None:
    """Put the checksums of the files in a folder into its manifest, and seal that."""
    from ppt_core.runs.files import file_sha256, write_json

    manifest = path.parent / "manifest.json"
    known = json.loads(manifest.read_bytes())
    known["files"] = {name: file_sha256(path.parent / name) for name in known["files"]}
    write_json(manifest, known)
