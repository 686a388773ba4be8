"""Two towers: a user is what the user did last, an item is a vector, and a score is their inner product.

The user's vector is the mean of the vectors of the last items, weighted by their places, plus what hidden layers make
of that mean (residual; the layers between the first and the last become 1-bit). There is no row for a user, so somebody
new is scored from a history alone, and a search by inner product finds exactly what the network would recommend. Scores
by a mean of recent items are Fossil's (He, McAuley 2016); hidden layers over such a mean are those of Covington, Adams
and Sargin (2016).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncf_ppt.initialize import initialize
from ncf_ppt.recent import MeanEmbedding
from ncf_ppt.row_adam import RowEmbedding
from ppt_core.batch_norm import BatchNormReLU

_ROWS = 1 << 10  # histories at a time


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """What the network is.

    Attributes:
        factors: size of the vectors.
        layers: widths of the hidden layers of the user's tower; each after the first is 1-bit in low precision. Empty:
            the mean of the last items alone.
        n_recent: last items that are read.
        batch_norm: BatchNorm before each activation.
    """

    model: Literal["two-tower"] = "two-tower"
    factors: int = 128
    layers: tuple[int, ...] = (256, 256, 256)
    n_recent: int = 20
    batch_norm: bool = True

    def __post_init__(self) -> None:
        if self.model != "two-tower":
            raise ValueError(f"model is {self.model!r}; it must be two-tower")
        for name in ("factors", "n_recent"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.layers and min(self.layers) < 1:
            raise ValueError(f"layers is {','.join(map(str, self.layers))}; each width must be at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TwoTowerConfig":
        """Read what `to_dict` returned."""
        return cls(**values | {"layers": tuple(values["layers"])})

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self) | {"layers": list(self.layers)}


class TwoTower(nn.Module):
    """Scores of items for histories; see the module.

    Vectors of items start at N(0, 0.01) on both sides, biases of items at 0, the weight of place j at 0.85**j, hidden
    layers Glorot uniform, and the last layer of the tower at 0: at first a user is the mean alone.

    ``last_items``, int32 (n_users, n_recent), newest first and -1 behind them, is what is known of each user at the end
    of training; it is kept with the weights, and all -1 at first.

    Args:
        n_users: rows of ``last_items``.
        n_items: rows of the item tables.
        config: the shape of the network.
        seed: the initial weights are a function of the other arguments and the seed alone.
    """

    last_items: Tensor

    def __init__(self, n_users: int, n_items: int, config: TwoTowerConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no draws from the global generator; real memory comes below
            self.recent = MeanEmbedding(n_items, config.factors, config.n_recent)
            hidden: list[nn.Module] = []
            width = config.factors
            for n_out in config.layers:
                hidden.append(nn.Linear(width, n_out, bias=not config.batch_norm))
                hidden.append(BatchNormReLU(n_out) if config.batch_norm else nn.ReLU())
                width = n_out
            if hidden:
                hidden.append(nn.Linear(width, config.factors))
            self.tower = nn.Sequential(*hidden)
            self.item = RowEmbedding(n_items, config.factors)
            self.item_bias = RowEmbedding(n_items, 1)
            self.register_buffer("last_items", torch.empty(n_users, config.n_recent, dtype=torch.int32))
        initialize(self, seed=seed, draw_linear=_draw_linear)
        nn.init.zeros_(self.item_bias.weight)
        if hidden:
            nn.init.zeros_(hidden[-1].weight)  # type: ignore[arg-type]
        self.recent.reset_places(decay=0.85)
        nn.init.constant_(self.last_items, -1)

    def tables(self) -> list[RowEmbedding]:
        """The tables of items."""
        return [self.recent, self.item, self.item_bias]

    def forward(self, recent: Tensor) -> Tensor:
        """Return the user vectors, float (n, factors), of histories (n, n_recent), newest first, -1 where none."""
        means: Tensor = self.recent(recent)
        return means + self.tower(means) if len(self.tower) else means

    @torch.inference_mode()
    def user_vectors(self, recent: NDArray[np.int32]) -> NDArray[np.float32]:
        """Vectors of histories (n, n_recent), float32 (n, factors + 1); the last component, 1, meets an item's bias."""
        was_training = self.training
        self.eval()
        device = self.item.weight.device
        try:
            vectors = np.ones((len(recent), self.config.factors + 1), np.float32)
            for rows, histories in blocks_of_histories(recent):
                found = self(histories.to(device))[: rows.stop - rows.start]
                vectors[rows, :-1] = found.float().cpu().numpy()
        finally:
            self.train(was_training)
        return vectors

    @torch.inference_mode()
    def item_vectors(self) -> NDArray[np.float32]:
        """Vectors of all items, their bias the last component: float32 (n_items, factors + 1)."""
        return torch.cat([self.item.values(), self.item_bias.values()], dim=1).float().cpu().numpy()


def _draw_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def blocks_of_histories(recent: NDArray[np.int32]) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of histories (n, n_recent) and these histories, always as many, filled up with empty ones.

    Matrix products round by the number of their rows: of one number, a vector is a function of its history.
    """
    for start in range(0, len(recent), _ROWS):
        rows = torch.from_numpy(np.ascontiguousarray(recent[start : start + _ROWS]))
        yield slice(start, start + len(rows)), F.pad(rows, (0, 0, 0, _ROWS - len(rows)), value=-1)
