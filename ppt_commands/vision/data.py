"""The images that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.images.image_arrays import PreparedImages
    from data_prep.images.image_files import PreparedFolders


def open_images(path: Path | None, root: Path | None = None) -> "PreparedImages | PreparedFolders":
    """Open the prepared set at ``path``, its image files at ``root`` if they moved, or the built-in sample."""
    from data_prep.images.prepared import load_prepared
    from data_prep.images.synthetic import synthesize_images

    images = synthesize_images() if path is None else load_prepared(path, root=root)
    refuse_for_arrays(images, "--root", root)
    return images


def refuse_for_arrays(images: "PreparedImages | PreparedFolders", option: str, value: object) -> None:
    """Raise ValueError if an option of image files is given and the images are no files."""
    from data_prep.images.image_arrays import PreparedImages

    if value is not None and isinstance(images, PreparedImages):
        raise ValueError(f"{option} is {value}, which is for image files; these images are arrays, so leave it out")
