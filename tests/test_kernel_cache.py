"""Where compiled kernels are kept if Numba finds no place of its own."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ppt_core import kernel_cache
from ppt_core.errors import DataError
from ppt_core.kernel_cache import VARIABLE, cache_folders, can_be_written, set_kernel_cache, user_cache_folder

NOWHERE = Path("/proc/nowhere")  # nobody can make a folder there, whatever rights the tests run with

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation and a home that cannot be written; returns the folder for temporary files."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(NOWHERE))
    monkeypatch.setattr(kernel_cache, "__file__", str(NOWHERE / "ppt_core" / "kernel_cache.py"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def told() -> list[str]:
    lines: list[str] = []
    set_kernel_cache(lines.append)
    return lines


@pytest.mark.parametrize("place", ["installation", "home", "chosen"])
def test_does_nothing_where_numba_can_write(place: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nowhere / "writable"
    if place == "installation":
        monkeypatch.setattr(kernel_cache, "__file__", str(folder / "kernel_cache.py"))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME" if place == "home" else VARIABLE, str(folder))
    before = os.environ.get(VARIABLE)
    assert told() == []
    assert os.environ.get(VARIABLE) == before
    assert not [path for path in nowhere.iterdir() if path != folder]


def test_takes_a_private_temporary_folder_and_says_so_once(nowhere: Path) -> None:
    (line,) = told()
    folder = Path(os.environ[VARIABLE])
    assert folder.parent == nowhere
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert str(folder) in line
    assert f"set {VARIABLE}" in line
    assert told() == []  # it can be written now
    del os.environ[VARIABLE]
    assert len(told()) == 1
    assert os.environ[VARIABLE] == str(folder)  # what is compiled already is found again


@pytest.mark.parametrize("trap", ["link", "file", "open to all", "somebody else's"])
def test_never_loads_code_from_a_folder_that_others_can_write(
    trap: str, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told()
    folder = Path(os.environ.pop(VARIABLE))
    if trap == "open to all":
        folder.chmod(0o777)
    elif trap == "somebody else's":
        user = folder.stat().st_uid + 1
        monkeypatch.setattr(os, "getuid", lambda: user)
        folder.rename(folder.with_name(f"ppt-ncf-kernels-{user}"))
    else:
        folder.rmdir()
        if trap == "link":
            target = tmp_path / "target"
            target.mkdir(mode=0o700)
            folder.symlink_to(target)
        else:
            folder.touch()
    taken = set(nowhere.iterdir())
    told()
    assert Path(os.environ[VARIABLE]) not in taken
    assert stat.S_IMODE(Path(os.environ[VARIABLE]).stat().st_mode) == 0o700


def test_says_what_to_set_where_nothing_can_be_written(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(NOWHERE))
    with pytest.raises(DataError, match=f"set {VARIABLE} to a folder"):
        told()


def test_a_home_that_is_not_known_is_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a home and without an entry among the users: `~` stays as it is, and would be made here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert not can_be_written(user_cache_folder())
    assert not list(tmp_path.iterdir())


def test_knows_where_numba_looks() -> None:
    code = """if True:
        import os
        from pathlib import Path
        os.environ.pop("NUMBA_CACHE_DIR", None)
        from numba.core.caching import InTreeCacheLocator, UserWideCacheLocator
        from ppt_core import kernel_cache
        places = [Path(kind(main, kernel_cache.__file__).get_cache_path())
                  for kind in (InTreeCacheLocator, UserWideCacheLocator) for main in [kernel_cache.set_kernel_cache]]
        assert [places[0], places[1].parent] == kernel_cache.cache_folders(), places
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_kernels_run_where_nothing_else_can_be_written(nowhere: Path) -> None:
    """As in a container with a read-only root: a kernel is compiled into the spare folder."""
    told()
    code = "from numba import njit\n@njit(cache=True)\ndef f(x): return x + 1\nprint(f(1))"
    (nowhere / "kernel.py").write_text(code)
    done = subprocess.run([sys.executable, nowhere / "kernel.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr
    assert list(Path(os.environ[VARIABLE]).rglob("*.nbi"))


def test_the_users_choice_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert cache_folders()[0] == tmp_path
