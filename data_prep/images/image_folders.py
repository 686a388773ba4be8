"""ImageNet's layout, ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, checked and indexed where it lies."""

import contextlib
import hashlib
from collections.abc import Generator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.images.decoding import find_fault
from data_prep.images.image_files import ImageFiles, PreparedFolders
from data_prep.images.validation import hold_out
from ppt_core.errors import DataError
from ppt_core.runs.files import refuse_existing

SUFFIXES = (".jpeg", ".jpg")

OnBroken = Literal["stop", "skip"]


def prepare_image_folders(
    source: Path,
    out: Path,
    *,
    n_validation: int = 0,
    on_broken: OnBroken = "stop",
    threads: int = 2,
    progress: bool = False,
) -> PreparedFolders:
    """Check every image under ``source`` and write an index of them as a prepared set to the new folder ``out``.

    The images stay where they are. A class is a folder of ``train/``; ``val/`` must have the same ones. Files are
    taken if their names end in .JPEG or .jpg, in upper or lower case; others are counted in the manifest
    (``n_other_files``), and names that begin with a dot are passed over. Images are converted to red, green and
    blue when they are read, so greyscale and CMYK are no faults.

    Args:
        source: the folder that holds ``train/`` and ``val/``.
        out: a new folder.
        n_validation: training images to hold out, see `data_prep.images.validation.hold_out`; 0 holds out none.
        on_broken: what becomes of a file of zero bytes, a truncated one or one that is no image. ``stop`` raises
            and names the first; ``skip`` leaves it out and names it in the manifest (``broken``), with the reason.
        threads: files decoded at a time.
        progress: whether to show a progress bar on standard error.

    Returns:
        A set that depends on the images and their names alone, besides its root.

    Raises:
        DataError: ``out`` exists, ``source`` is not laid out so, has fewer than two classes, other classes in
            ``val/`` than in ``train/``, a class without a usable image, or a broken one that is not to be skipped; or
            so many images cannot be held out.
    """
    refuse_existing(out)
    if on_broken not in get_args(OnBroken):
        raise ValueError(f"on_broken is {on_broken!r}; choose stop or skip")
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    class_names = _find_classes(source)
    digest = hashlib.sha256()
    broken: list[dict[str, str]] = []
    n_others = 0
    parts = []
    for split in ("train", "val"):
        found, others = _find_files(source, split, class_names)
        n_others += others
        paths, labels = [], []
        with contextlib.closing(_check_files(source, split, list(found), threads, progress=progress)) as checked:
            for (path, label), (file_digest, fault) in zip(found.items(), checked, strict=True):
                if fault is None:
                    paths.append(path)
                    labels.append(label)
                    digest.update(path.encode() + b"\0" + file_digest)
                elif on_broken == "skip":
                    broken.append({"path": path, "reason": fault})
                else:
                    raise DataError(
                        f"{source / path} is broken ({fault}); replace it, or leave such files out with "
                        "`--on-broken skip`"
                    )
        _refuse_empty_classes(source / split, class_names, labels)
        parts.append(ImageFiles(root=source, paths=pa.array(paths, pa.string()), labels=np.array(labels, np.int64)))
    manifest: dict[str, Any] = {
        "source": {"name": "imagenet layout", "images_sha256": digest.hexdigest()},
        "n_broken": len(broken),
        "broken": broken,
        "n_other_files": n_others,
    }
    train, validation = hold_out(parts[0], n_validation) if n_validation else (parts[0], None)
    data = PreparedFolders(
        train=train, test=parts[1], validation=validation, class_names=class_names, manifest=manifest
    )
    return data.save(out)


def _find_classes(source: Path) -> tuple[str, ...]:
    layout = "lay it out as train/CLASS/*.JPEG and val/CLASS/*.JPEG"
    if source.is_file():
        raise DataError(f"{source} is a file; unpack it and name the folder that holds train/ and val/")
    if not source.is_dir():
        raise DataError(f"{source} does not exist; name the folder that holds train/ and val/")
    classes = {}
    for split in ("train", "val"):
        if not (source / split).is_dir():
            raise DataError(f"{source} holds no folder {split}/; {layout}")
        classes[split] = sorted(
            folder.name for folder in (source / split).iterdir() if folder.is_dir() and folder.name[0] != "."
        )
    train, val = classes["train"], classes["val"]
    if len(train) < 2:
        found = f"only the class {train[0]}" if train else "no folder of a class"
        raise DataError(f"{source / 'train'} holds {found}; at least two classes are needed: {layout}")
    for one, other, missing in (("train", "val", set(train) - set(val)), ("val", "train", set(val) - set(train))):
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{source / one} has the class {min(missing)}{more}, which {other}/ has not; both must have the same "
                "classes"
            )
    return tuple(train)


def _find_files(source: Path, split: str, class_names: tuple[str, ...]) -> tuple[dict[str, int], int]:
    """Each image's path from ``source`` with its label, in the order of the names, and the number of other files."""
    found: dict[str, int] = {}
    n_others = 0
    for label, name in enumerate(class_names):
        for file in sorted((source / split / name).iterdir()):
            if file.name[0] == ".":
                continue
            if file.suffix.lower() not in SUFFIXES:
                n_others += 1
                continue
            path = f"{split}/{name}/{file.name}"
            if not path.isprintable():  # also bytes that are not UTF-8, which no index could hold
                raise DataError(f"{source} holds a file of the name {path!r}; rename it in printable characters")
            found[path] = label
    return found, n_others


def _check_files(
    source: Path, split: str, paths: list[str], threads: int, *, progress: bool
) -> Generator[tuple[bytes, str | None], None, None]:
    """Yield the SHA-256 of each file and what is wrong with it, or None."""

    def check(path: str) -> tuple[bytes, str | None]:
        if not (source / path).is_file():  # a pipe or a device could be read for ever
            return b"", "it is no regular file"
        try:
            content = (source / path).read_bytes()
        except OSError as error:
            return b"", error.strerror or str(error)
        return hashlib.sha256(content).digest(), find_fault(content)

    # Threads, not processes: Pillow decodes outside of the interpreter's lock.
    with (
        ThreadPool(threads) as pool,
        tqdm(total=len(paths), desc=split, unit=" images", disable=not progress) as bar,
    ):
        for checked in pool.imap(check, paths, chunksize=16):
            bar.update()
            yield checked


def _refuse_empty_classes(folder: Path, class_names: tuple[str, ...], labels: list[int]) -> None:
    counts = np.bincount(np.array(labels, np.int64), minlength=len(class_names))
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if not count:
            raise DataError(f"{folder / name} holds no usable image; names of images must end in .JPEG or .jpg")
