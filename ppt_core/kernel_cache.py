"""Where Numba keeps compiled kernels: a spare folder if neither the installation nor the user's cache can be written.

Without any such place Numba refuses to compile a function with ``cache=True`` at all: a container with a read-only root
or a service without a home could run nothing.
"""

import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ppt_core.errors import DataError

VARIABLE = "NUMBA_CACHE_DIR"


def set_kernel_cache(tell: Callable[[str], None]) -> None:
    """Point Numba to a temporary folder if it could write nowhere else; to be called before Numba is imported.

    Numba tries the folder of NUMBA_CACHE_DIR, ``__pycache__`` beside the kernels, and the user's cache folder, in this
    order. If it could write in one of them, nothing is done.

    Args:
        tell: hears once, in one line, which folder is taken and what to set for a better one.

    Raises `DataError`, which says what to set, if no temporary folder can be written either.
    """
    if any(can_be_written(folder) for folder in cache_folders()):
        return
    try:
        folder = _spare_folder()
    except OSError as error:
        raise DataError(
            f"no folder for compiled kernels can be written ({error.strerror or error}); "
            f"set {VARIABLE} to a folder that can be"
        ) from None
    os.environ[VARIABLE] = str(folder)
    tell(
        f"kernels are compiled into {folder}, since neither the installation nor the user's cache folder can be "
        f"written; set {VARIABLE} to a folder that lasts"
    )


def cache_folders() -> list[Path]:
    """The folders in which Numba would try to keep kernels, the first choice first."""
    chosen = os.environ.get(VARIABLE)
    return [*([Path(chosen)] if chosen else []), Path(__file__).parent / "__pycache__", user_cache_folder()]


def user_cache_folder() -> Path:
    """The user's cache folder for Numba, as Numba finds it. It is relative, and of no use, where no home is known."""
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches")) / "numba"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in ``folder``, which need not exist yet; it is tried by making a folder and a file.

    A relative path, which stands for another folder in each working directory, counts as one that cannot.
    """
    if not folder.is_absolute():
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _spare_folder() -> Path:
    """A folder for temporary files that only this user can read and write: compiled code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"ppt-ncf-kernels-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(folder):  # somebody else's, who could put code there
            return Path(tempfile.mkdtemp(prefix="ppt-ncf-kernels-"))
    return folder


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
