"""Two processes that write into one folder: the second is refused, what a killed one left is taken over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.runs.locks import sole_writer
from ppt_core.runs.run import Run

HOLD = """
import os, sys, time
from pathlib import Path
from ppt_core.runs.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:  # a worker that outlives its parent
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other_process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the folder until it is spoken to."""
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_another_process_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(DataError, match=rf"is being written by process {process.pid} on ") as caught, \
                    sole_writer(tmp_path):  # fmt: skip
                pass
            assert "\n" not in str(caught.value)
        process.communicate("\n")
        assert not (tmp_path / "lock").exists()
        with sole_writer(tmp_path):
            assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    """At once, even while a worker that was forked from it lives on."""
    with other_process(tmp_path, "fork") as process:
        process.kill()
        process.wait()
        assert (tmp_path / "lock").exists()
        deadline = time.monotonic() + 10
        while True:  # the kernel frees it when the process has gone
            try:
                with sole_writer(tmp_path):
                    break
            except DataError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert not (tmp_path / "lock").exists()


def test_one_run_is_trained_by_one_process(tiny_data: PreparedData, tmp_path: Path) -> None:
    path, network = tmp_path / "run", NCFConfig(factors=4, layers=(8, 8, 8, 4))
    config = NCFTrainingConfig(iterations=6, batch_size=256)
    for progress in fit_steps(tiny_data, path, network, config, checkpoint_seconds=0):
        if progress.iteration == 3:
            break
    before = (path / "checkpoint.safetensors").read_bytes()
    with other_process(path):
        with pytest.raises(DataError, match=r"run is being written by process \d+ on .*; wait until that has ended"):
            next(fit_steps(tiny_data, path, network, config, resume=True))
        assert (path / "checkpoint.safetensors").read_bytes() == before
    for _ in fit_steps(tiny_data, path, network, config, resume=True):
        assert (path / "lock").exists()
    assert Run.open(path).finished
    assert not (path / "lock").exists()
    with other_process(path):  # nothing is left to write
        assert list(fit_steps(tiny_data, path, network, config, resume=True)) == []
