"""What a training takes over from a finished run: the rows of the users and items that both know, and the layers."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.original_ids import numbers_of
from ncf_ppt.row_adam import RowEmbedding
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryLinear
from ppt_core.runs.run import Run

if TYPE_CHECKING:
    from ncf_ppt.trained import TrainedNCF


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A start from a finished run.

    Attributes:
        path: of the run.
        model_sha256: of its tensors, which says what it had learned.
        users: how many users' rows are ``taken`` over, start ``fresh``, and are ``left`` behind since the data do not
            hold them any more; None where no table of users is taken over.
        items: the same of items.
        tables: whose rows are taken over.
        layers: other tensors that are taken over whole.
        fresh: tables and tensors that start anew, with the reason.
    """

    path: str
    model_sha256: str
    users: dict[str, int] | None
    items: dict[str, int] | None
    tables: tuple[str, ...]
    layers: tuple[str, ...]
    fresh: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self) | {"tables": list(self.tables), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Continuation":
        """Read what `to_dict` returned."""
        return cls(**{**values, "tables": tuple(values["tables"]), "layers": tuple(values["layers"])})

    def lines(self) -> Iterator[str]:
        """What was taken and what was not, for people."""
        for kind, counts in (("users", self.users), ("items", self.items)):
            if counts is None:
                continue
            yield (
                f"{kind}: {counts['taken']:,} taken from {self.path}, {counts['fresh']:,} start fresh, "
                f"{counts['left']:,} of {self.path} are not in these data"
            )
        yield f"tables taken: {', '.join(self.tables)}; layers taken: {', '.join(self.layers) or 'none'}"
        for name, reason in self.fresh.items():
            yield f"{name} starts fresh: {reason}"


@torch.no_grad()
def continue_from(source: "TrainedNCF", model: nn.Module, data: PreparedData) -> Continuation:
    """Give ``model`` what ``source`` learned, in place, and say what that is.

    In every embedding table that both networks have, with rows of one size, the row of an id that both data hold is
    copied; other rows keep their initial values. Every other tensor of one name and shape is copied whole, running
    statistics of BatchNorm included, but for two: what is known of a user's last items, since these data say it,
    and the levels and scales of 1-bit layers, which are set where the network becomes 1-bit. Latent weights are
    copied: a network that ended in low precision goes on with what its signs were taken of. Ids are compared as
    `ncf_ppt.original_ids.numbers_of` says.

    Raises `DataError` if the data of ``source`` are gone, or if no table of the two fits, and ValueError for a packed
    file.
    """
    tensors, old = source.network.state_dict(), source.data
    matches = {
        "users": numbers_of(data.user_ids, old.user_ids),
        "items": numbers_of(data.item_ids, old.item_ids),
    }
    modules = dict(model.named_modules())
    tables = {name for name, module in modules.items() if isinstance(module, RowEmbedding)}
    taken: list[str] = []
    whole: list[str] = []
    fresh: dict[str, str] = {}
    for name, own in model.state_dict().items():
        owner, _, kind = name.rpartition(".")
        if name == "last_items":
            continue
        is_table = owner in tables and kind == "weight"
        label, learned = owner if is_table else name, tensors.get(name)
        if isinstance(modules[owner], BinaryActivation | BinaryLinear) and kind in ("alpha", "scale"):
            fresh[label] = "it is set where the network becomes 1-bit"
        elif learned is None:
            fresh[label] = "the run has none"
        elif learned.shape[is_table:] != own.shape[is_table:]:
            fresh[label] = f"its shape is {_shape(own, is_table)}, and {_shape(learned, is_table)} in the run"
        elif is_table:
            _copy_rows(own, learned, matches[_kind(owner)])
            taken.append(owner)
        else:
            own.copy_(learned)
            whole.append(name)
    if not taken:
        reasons = "; ".join(f"{name}: {fresh[name]}" for name in sorted(tables & set(fresh)))
        raise DataError(f"no row of {source.name} fits this network ({reasons}); train one of the same sizes")
    has_rows = {_kind(table) for table in taken}
    users, items = (
        _counts(matches[kind], n) if kind in has_rows else None
        for kind, n in (("users", old.n_users), ("items", old.n_items))
    )
    return Continuation(
        path=source.name,
        model_sha256=_sha256(tensors),
        users=users,
        items=items,
        tables=tuple(taken),
        layers=tuple(whole),
        fresh=fresh,
    )


def refuse_other_start(path: Path | str, start: Continuation | None) -> None:
    """Raise `DataError` unless the run ``path`` took over the same, or nothing if ``start`` is None."""
    recorded = Run.open(path).config.groups.get("init")
    if (recorded or {}) | {"path": ""} != (start.to_dict() if start else {}) | {"path": ""}:
        was = f"from {recorded['path']}" if recorded else "anew"
        given = f"from {start.path} as it is now" if start else "without it"
        raise DataError(f"{path} was started {was}, and not {given}; to resume it, give init= as it was")


def _kind(table: str) -> str:
    """Whose rows a table has."""
    return "users" if "user" in table else "items"


def _copy_rows(own: Tensor, learned: Tensor, matches: NDArray[np.int64]) -> None:
    known = np.flatnonzero(matches >= 0)
    rows = learned[torch.from_numpy(matches[known])].to(own.device, own.dtype)
    own[torch.from_numpy(known).to(own.device)] = rows


def _counts(matches: NDArray[np.int64], n_old: int) -> dict[str, int]:
    taken = int((matches >= 0).sum())
    return {"taken": taken, "fresh": len(matches) - taken, "left": n_old - taken}


def _shape(tensor: Tensor, is_table: bool) -> str:
    return f"{tensor.shape[1]} a row" if is_table else str(tuple(tensor.shape))


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
