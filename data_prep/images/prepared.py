"""Either kind of prepared images behind one door."""

from pathlib import Path

from data_prep.images import image_arrays, image_files
from data_prep.images.image_arrays import PreparedImages
from data_prep.images.image_files import PreparedFolders
from data_prep.images.manifest import read_manifest
from ppt_core.errors import DataError


def load_prepared(path: Path, *, root: Path | None = None) -> PreparedImages | PreparedFolders:
    """Open the prepared set in the folder ``path``, of whichever kind it is.

    Args:
        path: what ``ppt-vision prepare`` made.
        root: where image files are now, if they were moved since.

    Raises `DataError` if it is no prepared set of images, or a damaged one.
    """
    kind = read_manifest(path)["kind"]
    if kind == image_files.KIND:
        return PreparedFolders.load(path, root=root)
    if kind == image_arrays.KIND:
        return PreparedImages.load(path)
    raise DataError(f"{path} is a prepared set of {kind}, which this version of ppt-ncf does not know; upgrade ppt-ncf")
