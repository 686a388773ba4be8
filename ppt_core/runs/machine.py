"""What this process finds on its machine: versions, processor, cores, engines and cache folders."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ppt_core.environment import ENVIRONMENT
from ppt_core.kernel_cache import cache_folders, can_be_written
from ppt_core.runs.arithmetic import choose_arithmetic, linear_product
from ppt_core.threads import affinity, are_chosen, quotas, threads_in_use, usable_cores

REQUIRED = ("ppt-ncf", "torch", "numba", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "implicit")
OPTIONAL = ("faiss-cpu", "onnx", "onnxruntime", "tensorboard", "mlflow", "distributed")
_VARIABLES = (*ENVIRONMENT, "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR")


def describe_machine() -> dict[str, Any]:
    """Return what a report of a fault should say of the machine, as JSON values, group by group.

    ``versions`` holds None for a package that is missing. ``products`` are the microseconds of one product of MLPerf's
    first layer, by which ``--precision auto`` decides. ``caches`` are the folders where Numba would keep kernels, the
    first choice first, and whether they can be written.
    """
    limits = quotas()
    return {
        "versions": {"python": platform.python_version(), **{name: found_version(name) for name in REQUIRED}},
        "extras": {name: found_version(name) for name in OPTIONAL},
        "processor": {"name": cpu_name(), "machine": platform.machine(), "system": platform.platform()},
        "cores": {
            "machine": os.cpu_count(),
            "affinity": affinity(),
            "quota": min(limits) if limits else None,
            "usable": usable_cores(),
            "threads": threads_in_use(),
            "threads_chosen": are_chosen(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "engines": _engines(),
        "caches": {str(folder): can_be_written(folder) for folder in cache_folders()},
    }


def found_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _engines() -> dict[str, Any]:
    import torch
    from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]

    features = get_host_cpu_features()
    counting = {"avx512vpopcntdq": "AVX-512 VPOPCNTDQ", "popcnt": "POPCNT"}
    found = [name for feature, name in counting.items() if features.get(feature)]
    choice = choose_arithmetic("auto", "cpu", linear_product(2048, 256, 256, "cpu"))
    return {
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bit_counts": found[0] if found else "no instruction",
        "precision_auto": choice.arithmetic,
        "products": choice.measured,
        "cuda": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }
