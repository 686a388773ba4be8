"""The manifest of a prepared set of images, which says what kind the set is of."""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError
from ppt_core.runs.files import read_bytes, read_json

FORMAT_VERSION = 1


def read_manifest(path: Path, *, kind: str | None = None) -> dict[str, Any]:
    """Return the manifest of the prepared set in the folder ``path``.

    Raises `DataError` if the folder is missing, is not a prepared set of images, or not of this ``kind`` where one
    is given, has a format version this code does not know, or if its manifest was changed.
    """
    if not path.is_dir():
        raise DataError(
            f"{path} is not a folder; make a prepared set with `ppt-vision prepare cifar10 SOURCE --out {path}`"
        )
    if not (path / "manifest.json").exists():
        raise DataError(f"{path} holds no manifest.json, so it is not a prepared set; run `ppt-vision prepare` first")
    if b'"kind"' not in read_bytes(path / "manifest.json"):  # sets of ratings have versions of their own
        raise DataError(f"{path} is not a prepared set of images; make one with `ppt-vision prepare`")
    manifest = read_json(path / "manifest.json", format_version=FORMAT_VERSION, needed={"kind": str})
    found = manifest["kind"]
    if kind is not None and found != kind:
        raise DataError(f"{path} is a prepared set of {found}, not of {kind}")
    return manifest


def parts_of(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Names of the parts of the prepared set that a manifest describes."""
    return ("train", "test", "validation") if "n_validation" in manifest else ("train", "test")


def count_images(parts: Mapping[str, Sized]) -> str:
    """The number of images in the parts of a prepared set, for people to read."""
    counts = [f"{len(part):,} {'training' if name == 'train' else name}" for name, part in parts.items()]
    return f"{', '.join(counts[:-1])} and {counts[-1]} images"
