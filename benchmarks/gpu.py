"""What one GPU does with this project, and whether it does it right: speeds and checks, in at most 9 minutes.

    python -m benchmarks.gpu --out gpu.json

All data are synthesized; ``--cifar`` takes real images from a .npz file of uint8 train_images and test_images
(n, 32, 32, 3) and integer train_labels and test_labels. Every part runs in a process of its own with a limit of
seconds, so that one that fails or hangs costs no other its figures. The file is written anew after every row.

  machine   the ceilings: copying and matrix products
  neumf     samples/s at MovieLens-20M's shape, drawn on the device, and peak memory
  checks    each path on the device against the CPU
  resnet    images/s of ResNet-20
  profile   the longest kernels of a step of NeuMF
  compiled  the same networks through torch.compile
  study     three trials of each technique with ResNet-20, three epochs long
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

# Seconds that a part may take. What one leaves, the last has.
LIMITS = {"machine": 40, "neumf": 100, "checks": 100, "resnet": 60, "profile": 60, "compiled": 90, "study": 80}
Row = dict[str, Any]


def rows_of(part: str, device: str, quick: bool, cifar: Path | None) -> Iterator[Row]:
    """Run a part in this process."""
    import torch

    from benchmarks import gpu_run_checks, gpu_speed
    from benchmarks.gpu_scale import Scale, failure

    scale = Scale(device=device, quick=quick)
    if device != "cpu" and part == "checks":
        torch.backends.cudnn.allow_tf32 = False  # or convolutions would be compared at 10 bits
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "machine": lambda: gpu_speed.machine(scale),
        "neumf": lambda: gpu_speed.neumf(scale),
        "checks": lambda: gpu_run_checks.all_checks(scale),
        "resnet": lambda: gpu_speed.resnet(scale, cifar, compiled=False),
        "profile": lambda: gpu_speed.profile(scale),
        "compiled": lambda: gpu_speed.compiled(scale, cifar),
        "study": lambda: gpu_speed.study(scale, cifar),
    }
    try:
        yield from parts[part]()
    except Exception as error:
        yield {"row": "the part itself", **failure(error)}


def rows_of_process(part: str, arguments: list[str], limit: float) -> Iterator[Row]:
    """Run a part in a process of its own, which is ended at the limit of seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", part, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(limit, process.kill)
    timer.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if process.wait():
            yield {"row": "the part itself", "failed": f"ended with code {process.returncode} (limit {limit:.0f} s)"}
    finally:
        timer.cancel()
        process.kill()


def describe() -> Row:
    """The machine and the versions."""
    import numpy
    import torch

    is_there = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if is_there else None,
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if is_there else None,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def text_of(value: Any) -> str:
    """A value as a cell of the table shows it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def is_failed(row: Row) -> bool:
    """Whether a row is of something that could not be measured, or is a check that found a difference."""
    return "failed" in row or row.get("ok") is False


def table(results: dict[str, list[Row]]) -> str:
    """All rows, a line each."""
    lines = []
    for part, rows in results.items():
        lines.append(f"== {part}")
        for row in rows:
            mark = "FAILED" if is_failed(row) else "ok    " if "ok" in row else "      "
            cells = [
                text_of(value) if key == "row" else f"{key} {text_of(value)}"
                for key, value in row.items()
                if key != "ok"
            ]
            lines.append(f"{mark} {', '.join(cells)}"[:230])
    rows = [row for rows in results.values() for row in rows]
    n_failed = sum(is_failed(row) for row in rows)
    return "\n".join([*lines, f"{sum('ok' in row for row in rows)} checks; {n_failed} rows failed"])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="The JSON file to write.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="As little as runs every line, in this process.")
@click.option("--cifar", type=click.Path(exists=True, path_type=Path), help="A .npz file of real images.")
@click.option("--seconds", default=530.0, show_default=True, help="Limit of all parts together.")
@click.option("--parts", default=",".join(LIMITS), show_default=True)
@click.option("--only", hidden=True, help="Run this part in this process and print its rows.")
def main(
    out: Path | None, device: str, quick: bool, cifar: Path | None, seconds: float, parts: str, only: str | None
) -> None:
    """Measure, check and print the table."""
    if only is not None:
        for row in rows_of(only, device, quick, cifar):
            print(json.dumps(row), flush=True)
        return
    names = parts.split(",")
    if not set(names) <= set(LIMITS):
        raise click.BadParameter(f"{parts}: choose from {','.join(LIMITS)}", param_hint="--parts")
    start = time.monotonic()
    results: dict[str, list[Row]] = {}
    seconds_of: dict[str, float] = {}
    document = {"machine": describe(), "seconds": seconds_of, "parts": results}
    arguments = ["--device", device, *(["--cifar", str(cifar)] if cifar else [])]
    # Numba compiles what the checks need on another core meanwhile.
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    warming = [sys.executable, "-m", "benchmarks.gpu", "--only", "checks", "--device", "cpu", "--quick"]
    quiet["env"] = {**os.environ, "OMP_NUM_THREADS": "2"}
    compiling = None if quick or "checks" not in names else subprocess.Popen(warming, **quiet)
    for part in names:
        began = time.monotonic()
        left = seconds - (began - start)
        limit = left if part == names[-1] else min(left, LIMITS[part])
        rows = rows_of(part, device, quick, cifar) if quick else rows_of_process(part, arguments, limit)
        if left < 5 and not quick:
            rows = iter([{"row": "the part itself", "failed": "no time was left"}])
        results[part] = []
        for row in rows:
            results[part].append(row)
            seconds_of[part] = round(time.monotonic() - began, 1)
            if out is not None:
                partial = out.with_suffix(".partial")
                partial.write_text(json.dumps(document, indent=1))
                partial.replace(out)
    if compiling is not None:
        compiling.kill()
    click.echo(table(results))


if __name__ == "__main__":
    main()
