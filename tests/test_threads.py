"""How many threads compute."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numba
import pytest
import torch
from threadpoolctl import ThreadpoolController, threadpool_info

from data_prep.ratings.interactions import PreparedData
from ppt_commands.programs import main, vision
from ppt_core import threads
from ppt_core.threads import (
    affinity,
    are_chosen,
    default_threads,
    limited_threads,
    quotas,
    set_threads,
    threads_in_use,
    usable_cores,
)
from tests.command_line import CommandLine

ROOT = Path(__file__).parent.parent
V1 = "33 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_OTHER = "34 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V2 = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid shared:9 master:4 - cgroup2 cgroup2 rw,nsdelegate"


def lay_out(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """A root folder whose process is in ``groups``; files are paths below /sys/fs/cgroup, with __ for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(f"22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n{mounts}\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def version_2(root: Path, quota: str, *, top: str = "/", group: str = "/") -> Path:
    return lay_out(root, f"0::{group}\n", V2.format(top=top), cpu_max=quota)


class TestQuotas:
    def test_of_version_2(self, tmp_path: Path) -> None:
        root = version_2(tmp_path, "150000 100000\n")
        assert quotas(root) == [1.5]
        assert usable_cores(root) == min(2, affinity())

    def test_less_than_a_core_is_one(self, tmp_path: Path) -> None:
        assert usable_cores(version_2(tmp_path, "20000 100000\n")) == 1

    def test_more_than_the_machine_has_is_no_limit(self, tmp_path: Path) -> None:
        assert usable_cores(version_2(tmp_path, "6400000 100000\n")) == affinity()

    @pytest.mark.parametrize("quota", ["max 100000\n", "max\n", "", "0 0\n", "nonsense\n"])
    def test_none(self, quota: str, tmp_path: Path) -> None:
        root = version_2(tmp_path, quota)
        assert quotas(root) == []
        assert usable_cores(root) == affinity()

    def test_of_the_groups_that_a_group_lies_in(self, tmp_path: Path) -> None:
        files = {"cpu_max": "max 100000\n", "a__cpu_max": "100000 100000\n", "a__b__cpu_max": "300000 100000\n"}
        root = lay_out(tmp_path, "0::/a/b\n", V2.format(top="/"), other__cpu_max="1 100000\n", **files)
        assert quotas(root) == [3, 1]
        assert usable_cores(root) == 1

    @pytest.mark.parametrize(
        ("top", "group"), [("/docker/1", "/docker/1"), ("/docker/1", "/elsewhere"), ("/", "/../2")]
    )
    def test_of_a_container_that_sees_a_part_of_the_groups(self, top: str, group: str, tmp_path: Path) -> None:
        assert quotas(version_2(tmp_path, "100000 50000\n", top=top, group=group)) == [2]

    def test_of_version_1(self, tmp_path: Path) -> None:
        files = {
            "cpu,cpuacct__x__cpu_cfs_quota_us": "50000\n",
            "cpu,cpuacct__x__cpu_cfs_period_us": "200000\n",
            "cpu,cpuacct__cpu_cfs_quota_us": "-1\n",
            "cpu,cpuacct__cpu_cfs_period_us": "100000\n",
            "memory__x__cpu_cfs_quota_us": "1\n",
            "memory__x__cpu_cfs_period_us": "100000\n",
        }
        groups = "5:memory:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/y\n0::/\n"
        root = lay_out(tmp_path, groups, f"{V1.format(top='/')}\n{V1_OTHER}", **files)
        assert quotas(root) == [0.25]

    def test_a_missing_file_is_no_quota(self, tmp_path: Path) -> None:
        groups, period = "4:cpu,cpuacct:/\n", {"cpu,cpuacct__cpu_cfs_period_us": "100000\n"}
        assert quotas(lay_out(tmp_path / "1", groups, V1.format(top="/"), **period)) == []
        assert quotas(tmp_path / "nothing") == []

    def test_this_machine_is_read(self) -> None:
        assert 1 <= usable_cores() <= affinity()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Four usable cores; the threads of this process are given back."""
    monkeypatch.setattr(threads, "affinity", lambda: 4)
    monkeypatch.setattr(threads, "quotas", lambda root: [])
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "_exported", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads(), numba.get_num_threads()
    blas = [(library, library.num_threads) for library in blas_libraries()]
    yield monkeypatch
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
    for library, count in blas:
        library.set_num_threads(count)


def blas_libraries() -> list[Any]:
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


@pytest.mark.parametrize(
    ("variable", "expected"), [("2", 2), ("3,2", 3), (" 1 ", 1), ("64", 4), ("0", 4), ("many", 4), ("", 4)]
)
def test_the_users_variable_counts_if_it_is_less(variable: str, expected: int, here: pytest.MonkeyPatch) -> None:
    assert default_threads() == 4
    here.setenv("OMP_NUM_THREADS", variable)
    assert default_threads() == expected


def test_one_call_sets_all_libraries(here: pytest.MonkeyPatch) -> None:
    assert not are_chosen()
    assert set_threads(1) == 1
    assert are_chosen()
    assert threads_in_use() == torch.get_num_threads() == numba.get_num_threads() == 1
    assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_no_more_threads_than_cores(here: pytest.MonkeyPatch) -> None:
    assert set_threads(64) == 4
    assert torch.get_num_threads() == 4
    assert numba.get_num_threads() == min(4, numba.config.NUMBA_NUM_THREADS)
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        set_threads(0)


def test_a_quota_is_the_default(here: pytest.MonkeyPatch) -> None:
    here.setattr(threads, "quotas", lambda root: [0.5])
    torch.set_num_threads(2)
    assert set_threads() == set_threads() == 1
    assert torch.get_num_threads() == numba.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert not are_chosen()  # by anybody: a training may try other numbers


def test_a_block_gives_its_threads_back(here: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    with limited_threads(1):
        assert are_chosen()
        assert threads_in_use() == torch.get_num_threads() == numba.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert not are_chosen()


NEW_PROCESS = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}


def in_a_new_process(code: str, **environment: str) -> Any:
    """What the code, which finds `threads`, prints as JSON: cores, and threads of PyTorch and of Numba."""
    code = f"""if True:
        import json, os
        from ppt_core import threads
        {code}
        from ppt_core.environment import set_environment
        set_environment()
        threads.set_threads()
        import torch, numba
        numbers = threads.usable_cores(), torch.get_num_threads(), numba.get_num_threads()
        print(json.dumps([*numbers, numba.config.NUMBA_NUM_THREADS]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=NEW_PROCESS | environment, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def test_follows_the_affinity() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    assert in_a_new_process("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == [1, 1, 1, 1]


def test_a_quota_holds_before_the_libraries_start_their_threads() -> None:
    quota = "threads.quotas = lambda root: [1.5]; threads.affinity = lambda: 64"
    assert in_a_new_process(quota) == [2, 2, 2, 2]


@pytest.mark.parametrize(("asked", "environment"), [("1", {}), ("None", {"OMP_NUM_THREADS": "1"})])
def test_holds_for_pytorch_imported_later(asked: str, environment: dict[str, str]) -> None:
    code = "import sys; from ppt_core.threads import set_threads; "
    code += f"set_threads({asked}); assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=NEW_PROCESS | environment, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"1"


def test_every_command_that_computes_takes_threads() -> None:
    for program in (main, vision):
        for name, command in program.commands.items():
            commands = command.commands.values() if isinstance(command, click.Group) else [command]
            for one in commands:
                takes = any("--threads" in option.opts for option in one.params)
                assert takes or one.name == "report", name


def test_the_option_sets_threads_and_changes_no_result(
    here: pytest.MonkeyPatch, tmp_path: Path, tiny_data: PreparedData
) -> None:
    tiny_data.save(tmp_path / "data")
    found = []
    for n in (1, 2):
        options = ["--iterations", 6, "--threads", n]
        CommandLine(main).succeed("train", "--data", tmp_path / "data", "--out", tmp_path / str(n), *options)
        assert torch.get_num_threads() == n
        found.append((tmp_path / str(n) / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_more_threads_than_cores_are_said(here: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = CommandLine(main).call("evaluate", tmp_path / "none", "--threads", 64)
    assert "--threads is 64, and 4 cores may be used: so many threads compute" in result.stderr
