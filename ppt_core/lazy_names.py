"""The names of a package that load what they need when they are first used (PEP 562)."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ppt_core.environment import set_environment


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Build a package's ``__getattr__``.

    Args:
        package: its name.
        homes: the module of each name, or ``module:name`` where it has another name there. All but those of the core
            load PyTorch or Numba: the first use of one sets the environment
            (`ppt_core.environment.set_environment`), which must come before.
    """

    def find(name: str) -> Any:
        if name == "__version__":
            return version("ppt-ncf")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other_name = homes[name].partition(":")
        if not module.startswith("ppt_core."):
            _set_environment()
        return getattr(import_module(module), other_name or name)

    return find


@cache
def _set_environment() -> None:
    set_environment()
