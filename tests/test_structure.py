"""What the tree promises: imports point down, no module is a drawer, a wheel holds what it should."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ppt_core", "ncf_ppt", "vision_ppt", "data_prep", "ppt_commands")
MAY_IMPORT = {
    "ppt_core": set(),
    "data_prep": {"ppt_core"},
    "ncf_ppt": {"ppt_core", "data_prep"},
    "vision_ppt": {"ppt_core", "data_prep"},
    "ppt_commands": {"ppt_core", "ncf_ppt", "vision_ppt", "data_prep"},
    "cli": {"ppt_commands"},
    "benchmarks": {"ppt_core", "ncf_ppt", "vision_ppt", "data_prep"},
}
DRAWERS = {
    "utils",
    "util",
    "common",
    "base",
    "manager",
    "helpers",
    "helper",
    "misc",
    "registry",
    "trainer",
    "callbacks",
}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
# joblib also runs jobs in other processes, whose messages are our own; what it must not do here is read files.
LOADERS = {"torch.load", "torch.jit.load", "torch.package", "joblib.load", "joblib.numpy_pickle", "joblib.Memory"}
# CIFAR-10 is published as pickles; this one module reads them with an unpickler that knows no globals but NumPy's.
# A model that one process of a server hands to another travels as a pickle in a file without a name.
MAY_UNPICKLE = {
    "data_prep/images/cifar_pickles.py",
    "ncf_ppt/http/handover.py",
    "benchmarks/kill_cases.py",  # writes batches as CIFAR-10's are, and reads none
}


def sources(*names: str) -> list[Path]:
    """Every module of these packages (or the module itself), relative to the root."""
    found = [path for name in names for path in [*(ROOT / name).rglob("*.py"), ROOT / f"{name}.py"] if path.exists()]
    return sorted(path.relative_to(ROOT) for path in found)


def imported(code: str) -> Iterator[str]:
    """Names of the modules that a piece of code imports anywhere, functions and type checking included."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way they point"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unpickles(code: str) -> set[str]:
    """What in a piece of code could run a pickle that a user hands over."""
    found = {name for name in imported(code) if name.split(".")[0] in UNPICKLERS or name in LOADERS}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name in LOADERS or node.attr == "read_pickle":
                found.add(name)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.add(f"allow_pickle={ast.unparse(node.value)}")
    return found


MODULES = sources(*MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path: Path) -> None:
    owner = path.parts[0].removesuffix(".py")
    found = {name.split(".")[0] for name in imported((ROOT / path).read_text())} & {*MAY_IMPORT, "tests"}
    assert found - {owner} <= MAY_IMPORT[owner]
    if path.name == "cli.py":
        assert "cli" not in found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_what_users_hand_over_is_never_unpickled(path: Path) -> None:
    if str(path) not in MAY_UNPICKLE:
        assert unpickles((ROOT / path).read_text()) == set()


def test_the_checks_see_what_they_forbid() -> None:
    code = "def f():\n    import a.b, c as d\n    if TYPE_CHECKING:\n        from e.f import g\n"
    assert set(imported(code)) == {"a.b", "c", "e.f", "e.f.g"}
    for forbidden in (
        "import pickle",
        "from pickle import loads",
        "def f():\n    from joblib import load",
        "import joblib\nx = joblib.load(path)",
        "import torch\nx = torch.load(path, weights_only=True)",
        "import pandas as pd\nx = pd.read_pickle(path)",
        "import numpy as np\nx = np.load(path, allow_pickle=True)",
        "import numpy as np\nx = np.load(path, allow_pickle=trusted)",
    ):
        assert unpickles(forbidden), forbidden
    assert not unpickles("from joblib import Parallel, delayed")
    assert not unpickles("import numpy as np\nx = np.load(path, allow_pickle=False)\ny = json.load(file)")


def test_no_module_is_a_drawer() -> None:
    for path in MODULES:
        assert not DRAWERS & {part.removesuffix(".py").strip("_") for part in path.parts}, path


def test_nothing_runs_when_imported() -> None:
    for path in sources(*PACKAGES, "cli"):
        body = ast.parse((ROOT / path).read_text()).body
        if path.name == "__init__.py" and len(path.parts) > 2:
            assert len(body) == 1, f"{path} is more than a docstring"
        for statement in body:
            assert not isinstance(statement, (ast.For, ast.While, ast.With)), f"{path}:{statement.lineno}"
            if isinstance(statement, ast.Expr):
                assert isinstance(statement.value, ast.Constant), f"{path}:{statement.lineno}"


def test_compiled_code_lives_in_kernels() -> None:
    """Nothing else is compiled: kernels trust their arguments, so each stands behind a module that checks them."""
    for path in MODULES:
        compiles = re.search(r"\b(njit|jit|vectorize|guvectorize|prange)\b", (ROOT / path).read_text())
        assert not compiles or path.name.endswith("_kernels.py"), path


def test_a_cached_kernel_depends_on_its_own_file() -> None:
    """Numba compiles a cached kernel again when its file changes, and not when a file that it calls into does.

    SplitMix64, the population count and the heap come from other files: they are facts, so their text never changes.
    A file that calls into other kernels holds the SHA-256 of their file, so that it changes with them.
    """
    frozen = {"ppt_core.random_words", "ppt_core.popcount", "ppt_core.popcount.popcount", "ppt_core"}
    frozen |= {f"ncf_ppt._heap_kernels{name}" for name in ("", ".enter", ".sort_best_first")} | {"ncf_ppt"}
    for path in MODULES:
        code = (ROOT / path).read_text()
        if path.name.endswith("_kernels.py") and "cache=True" in code:
            ours = {name for name in imported(code) if name.split(".")[0] in MAY_IMPORT}
            for name in sorted(ours - frozen):
                file = ROOT / f"{name.partition('._kernels')[0].replace('.', '/')}" / "_kernels.py"
                if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() in code:
                    ours.discard(name)
            assert ours <= frozen, path


def test_the_packages_answer_without_the_heavy_libraries() -> None:
    code = """if True:
        import sys, ncf_ppt, vision_ppt
        dir(ncf_ppt), ncf_ppt.DataError, ncf_ppt.set_environment, dir(vision_ppt), vision_ppt.DataError
        loaded = {name.split(".")[0] for name in sys.modules}
        print(sorted(loaded & {"torch", "numba", "pandas", "numpy", "scipy", "pyarrow", "implicit", "PIL"}))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]


def test_the_library_names_no_option() -> None:
    """Arguments are the library's words; `ppt_commands.group` puts the options in their place."""
    for path in sources("ppt_core", "data_prep", "ncf_ppt", "vision_ppt"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Raise):
                words = re.sub(r"`[^`]*`", "", ast.unparse(node))  # a whole command may be quoted
                assert not re.search(r"['\"\s(]--[a-z]", words), f"{path}:{node.lineno}"


def test_no_import_of_the_core_runs_upward() -> None:
    """Bits know no layers, layers know no packed ones, and nobody but the study knows the study."""
    floors = ("bits", "packed", "runs", "study")
    may = {"bits": {"bits"}, "": {"bits"}, "packed": {"bits", "packed"}, "runs": {"runs"}, "study": {"runs", "study"}}
    for path in sources("ppt_core"):
        own = path.parts[1] if path.parts[1] in floors else ""
        found = {name.split(".")[1] for name in imported((ROOT / path).read_text()) if name.startswith("ppt_core.")}
        assert found & set(floors) <= may[own], path


def test_the_core_knows_nobody_above_it_by_name() -> None:
    for path in sources("ppt_core"):
        assert not re.search(r"ncf_ppt|vision_ppt|data_prep|ppt_commands", (ROOT / path).read_text()), path


def test_a_command_parses_calls_and_prints() -> None:
    """What more it did, a Python user would have to do again: no body is longer than 40 lines."""
    for path in sources("ppt_commands"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                "command(" in ast.unparse(each) for each in node.decorator_list
            ):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                assert body[-1].end_lineno - body[0].lineno < 40, f"{path}:{node.lineno}"  # type: ignore[operator]


def test_each_trick_has_one_home() -> None:
    """SplitMix64, the check of a seed and the population count are written once."""
    texts = {str(path): (ROOT / path).read_text() for path in sources("ppt_core", "data_prep", "vision_ppt", "ncf_ppt")}
    for trick, home in (
        ("def popcount(", "ppt_core/popcount.py"),
        ("def random_word(", "ppt_core/random_words.py"),
        ("0 <= seed < 2**63", "ppt_core/random_words.py"),
    ):
        assert [path for path, text in texts.items() if trick in text] == [home]


def test_help_answers_without_the_heavy_libraries() -> None:
    code = """if True:
        import sys, cli
        try:
            cli.main(["--help"])
        except SystemExit as stop:
            assert not stop.code
        loaded = {name.split(".")[0] for name in sys.modules}
        print(sorted(loaded & {"torch", "numba", "pandas", "numpy", "scipy", "pyarrow", "implicit", "PIL"}))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the tree, built beside it."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*PACKAGES, "tests", "benchmarks"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(tree / done.stdout.splitlines()[-1])


def test_wheel_holds_the_packages_and_the_command_line(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert held == expected | {"cli.py"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert "\nName: ppt-ncf\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert (ROOT / "README.md").read_text().splitlines()[0] in metadata
    assert "ppt-ncf = cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
