"""Either kind of prepared images behind one door."""

from pathlib import Path

from data_prep.images import image_arrays, image_files
from data_prep.images.image_arrays import PreparedImages
from data_prep.images.image_files import PreparedFolders
from data_prep.images.manifest import read_manifest
from data_prep.images.synthetic import sample_images
from ppt_core.errors import DataError


def load_data(path: Path | str | None = None, *, root: Path | str | None = None) -> PreparedImages | PreparedFolders:
    """Open the prepared set in the folder ``path`` (`load_prepared`), or without one the built-in sample.

    Raises ValueError for a ``root`` of images that are no files.
    """
    images = sample_images() if path is None else load_prepared(path, root=root)
    refuse_for_arrays(images, "root", root)
    return images


def refuse_for_arrays(images: PreparedImages | PreparedFolders, name: str, value: object) -> None:
    """Raise ValueError if a setting of image files is given and the images are no files."""
    if value is not None and isinstance(images, PreparedImages):
        raise ValueError(f"{name} is {value}, which is for image files; these images are arrays, so leave it out")


def load_prepared(path: Path | str, *, root: Path | str | None = None) -> PreparedImages | PreparedFolders:
    """Open the prepared set in the folder ``path``, of whichever kind it is.

    Args:
        path: what ``ppt-vision prepare`` made.
        root: where image files are now, if they were moved since.

    Raises `DataError` if it is no prepared set of images, or a damaged one.
    """
    path = Path(path)
    kind = read_manifest(path)["kind"]
    if kind == image_files.KIND:
        return PreparedFolders.load(path, root=root)
    if kind == image_arrays.KIND:
        return PreparedImages.load(path)
    raise DataError(f"{path} is a prepared set of {kind}, which this version of ppt-ncf does not know; upgrade ppt-ncf")
