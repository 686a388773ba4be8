"""Commands in forks of this process, or in processes of their own, that are killed at a moment of ours."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
NCF, VISION = "ppt-ncf", "ppt-vision"

_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.chmod", "shutil.", "fcntl.",
           "tempfile.", "ctypes.dlsym")  # fmt: skip

tqdm.set_lock(threading.RLock())  # its own is shared with forks, and one that is killed while it holds it keeps it


class Wrong(Exception):
    """What must not be after a kill, or after the command that was given again."""


@dataclass
class Child:
    """A command in a process of its own.

    Attributes:
        pid: its number, and that of its group.
        started: when, by the monotonic clock.
        log: what it printed.
    """

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit status; -9 where it was killed. One that needs longer is killed, and raises `Wrong`."""
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() - self.started > seconds:
                self.kill()
                os.waitpid(self.pid, 0)
                raise Wrong(f"nothing happened for {seconds:g} seconds")
            time.sleep(0.002)

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text("utf-8", "replace")


def _counts(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a change of files, or comes right before one."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event.startswith(_EVENTS)


def beside(folder: Path, suffix: str) -> Path:
    """A file for what is about a folder."""
    return folder.with_name(folder.name + suffix)


def begin(words: Sequence[str], folder: Path, *, kill_at: int | None = None, count_in: Path | None = None) -> Child:
    """Start a command in a fork of this process.

    Args:
        words: the program and its arguments.
        folder: where it works.
        kill_at: the process kills itself before this change of files, counted from 0.
        count_in: a file for the number of changes.
    """
    log = beside(folder, ".log")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Child(pid, log)
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        seen = 0
        watching = False

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if watching and _counts(event, arguments):
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        watching = True
        code = call(words)
        atexit._run_exitfuncs()
        watching = False
        if count_in is not None:
            count_in.write_text(str(seen))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def begin_fresh(words: Sequence[str], folder: Path) -> Child:
    """Start a command as a user does."""
    log = beside(folder, ".log")
    start = "from ppt_commands.programs import {} as program; program()".format("main" if words[0] == NCF else "vision")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *words[1:]],
            cwd=folder,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    process.returncode = 0  # it is waited for by its number
    return Child(process.pid, log)


def call(words: Sequence[str]) -> int:
    """Run a command in this process, and return its exit status."""
    (program,) = entry_points(group="console_scripts", name=words[0])
    try:
        program.load().main(args=list(words[1:]), prog_name=words[0])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let standard output and standard error go nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(nowhere)


def in_jobs(work: Callable[[Any], dict[str, Any]], items: Sequence[Any], jobs: int) -> list[dict[str, Any]]:
    """The rows that ``work`` makes of each item, in as many forks at a time, each with every ``jobs``-th item."""
    if jobs == 1:
        return [work(item) for item in items]
    pids = []
    folder = Path(mkdtemp())
    for job in range(jobs):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        try:
            for number in range(job, len(items), jobs):
                (folder / str(number)).write_text(json.dumps(work(items[number])))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    if failed:
        raise click.ClickException(f"{failed} of {jobs} jobs failed")
    rows = [json.loads((folder / str(number)).read_text()) for number in range(len(items))]
    shutil.rmtree(folder)
    return rows
