"""Peak memory of `ppt-ncf train` at MovieLens-20M's size: the whole process, as the operating system counts it.

    python -m benchmarks.memory

Both rows train a small part of an epoch, and evaluate and keep all users at its middle, where precision falls, and at
its end: `resume` goes on from the checkpoint of the middle. Pages of mapped files count while the process holds them.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.provenance import document

COMMAND = [sys.executable, "-m", "ppt_commands"]


def peak(*arguments: str) -> float:
    """Run a command of `ppt-ncf` and return its peak resident memory in MB.

    The peak that the operating system keeps for a child is at least that of this process: it imports nothing large.
    """
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise click.ClickException(f"ppt-ncf {' '.join(arguments)} ended with exit code {child.returncode}")
    return usage.ru_maxrss * 1024 / 1e6


def interrupt(checkpoint: Path, *arguments: str) -> None:
    """Run a command of `ppt-ncf` until it has written ``checkpoint``."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL) as child:
        while not checkpoint.exists():
            if child.poll() is not None:
                raise click.ClickException(f"ppt-ncf {' '.join(arguments)} ended without a checkpoint")
            time.sleep(0.01)
        child.kill()


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Part of MovieLens-20M's size.")
@click.option("--data", type=click.Path(path_type=Path), help="Prepared folder in place of synthetic data.")
@click.option("--negatives", default=99, show_default=True, help="Of each user's test item.")
@click.option("--epochs", default=0.002, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(scale: float, data: Path | None, negatives: int, epochs: float, as_json: bool) -> None:
    """Measure and print both rows."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if data is None:
            data = folder / "data"
            sizes = {"users": 138_493 * scale, "items": 26_744 * max(scale, 0.1), "interactions": 20_000_263 * scale}
            counts = [text for name, n in sizes.items() for text in (f"--{name}", str(round(n)))]
            peak("prepare", "synthetic", *counts, "--negatives", str(negatives), "--out", str(data))
        options = ["train", "--data", str(data), "--epochs", str(epochs), "--eval-every", str(epochs / 2)]
        run = folder / "run"
        interrupt(run / "checkpoint.safetensors", *options, "--out", str(run))
        peaks = {"train": peak(*options, "--out", str(folder / "whole")), "resume": 0.0}
        peaks["resume"] = peak(*options, "--out", str(run), "--resume")
    if as_json:
        return click.echo(document([{"row": row, "peak MB": value} for row, value in peaks.items()]))
    for row, value in peaks.items():
        click.echo(f"{row:8} {value:,.0f} MB")


if __name__ == "__main__":
    main()
