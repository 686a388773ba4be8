"""NeuMF, GMF and MLP: neural collaborative filtering (He et al. 2017) as MLPerf v0.5 ran it, with BatchNorm."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncf_ppt.initialize import initialize
from ncf_ppt.recent import MeanEmbedding
from ncf_ppt.row_adam import BinaryRowEmbedding, RowEmbedding, is_binary
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.distributed import World
from ppt_core.pair_linear import PairLinear


@dataclass(frozen=True, kw_only=True)
class NCFConfig:
    """What the network is. The defaults are MLPerf v0.5's, with BatchNorm added (Renda and Fromm 2020).

    Attributes:
        model: ``neumf`` joins both parts; ``gmf`` and ``mlp`` are one of them alone.
        factors: size of the GMF embeddings.
        layers: widths of the MLP. The first is that of its input, the user's and the item's embedding of half
            that size each, so it must be even; each further one is a Linear layer.
        batch_norm: BatchNorm before each activation of the MLP.
        binarize_embeddings: in low precision every row of the ``items``' tables, or of ``all``, is a sign for each
            component and one scale, see `ppt_core.binarize.binarize_rows`; True is ``all``. In a GMF with ``all`` the
            last layer's weights then train no more, so that a logit is a scale times a count of equal bits.
        n_recent: how many of a user's last items the network reads; 0 is the network of users and items alone.
    """

    model: Literal["neumf", "gmf", "mlp"] = "neumf"
    factors: int = 64
    layers: tuple[int, ...] = (256, 256, 128, 64)
    batch_norm: bool = True
    binarize_embeddings: Literal["items", "all"] | bool | None = None
    n_recent: int = 0

    def __post_init__(self) -> None:
        if self.model not in ("neumf", "gmf", "mlp"):
            raise ValueError(f"model is {self.model!r}; choose neumf, gmf or mlp")
        if self.factors < 1:
            raise ValueError(f"factors is {self.factors}; it must be at least 1")
        if len(self.layers) < 2 or min(self.layers) < 1 or self.layers[0] % 2:
            raise ValueError(
                f"layers is {','.join(map(str, self.layers))}; give at least two widths, the first of them even: "
                "half of it is the size of a user's and of an item's embedding"
            )
        if self.n_recent < 0:
            raise ValueError(f"n_recent is {self.n_recent}; it must be 0, which reads no recent items, or above")
        if isinstance(self.binarize_embeddings, bool):  # what it was when there was no choice of tables
            object.__setattr__(self, "binarize_embeddings", "all" if self.binarize_embeddings else None)
        if self.binarize_embeddings not in (None, "items", "all"):
            raise ValueError(f"binarize_embeddings is {self.binarize_embeddings!r}; choose items or all")
        if self.n_recent and self.binarize_embeddings:
            raise ValueError(
                "binarize_embeddings makes every row 1-bit, which a mean of recent items is not; leave one out"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NCFConfig":
        """Read what `to_dict` returned."""
        return cls(**values | {"layers": tuple(values["layers"])})

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values; later ones only if chosen, since older runs have no such keys."""
        values = asdict(self) | {"layers": list(self.layers)}
        for later in ("binarize_embeddings", "n_recent"):
            if not values[later]:
                del values[later]
        return values


class NCF(nn.Module):
    """Score of (user, item) pairs: a logit.

    ``gmf_user * gmf_item`` and the MLP of ``[mlp_user; mlp_item]`` meet, side by side, in one last Linear.
    Embeddings start at N(0, 0.01), MLP weights Glorot uniform, the last layer LeCun uniform, MLP biases as
    PyTorch's Linear has them, the last bias likewise.

    With ``n_recent`` a user is also the mean r of what the user took last (`ncf_ppt.recent.MeanEmbedding`, of size
    ``factors``). The MLP reads ``[mlp_user; r; mlp_item]``, and where there is a GMF part the logit is more by
    ``<r, next_item> + item_bias``, whose biases start at 0. Without any item r is 0. ``last_items``, int32 (n_users,
    n_recent), the latest first and -1 behind them, is what is known of each user at the end of training; it is kept
    with the weights, and all -1 at first.

    Args:
        n_users: rows of the user tables.
        n_items: rows of the item tables.
        config: the shape of the network.
        seed: the initial weights are a function of the other arguments and the seed alone.
        world: processes that the rows of the tables are dealt out to, whatever the number the same rows
            (`ncf_ppt.sharded_tables`); by default all are here.
    """

    last_items: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: NCFConfig,
        *,
        seed: int,
        world: World | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no draws from the global generator; real memory comes below
            user_table = BinaryRowEmbedding if config.binarize_embeddings == "all" else RowEmbedding
            item_table = BinaryRowEmbedding if config.binarize_embeddings else RowEmbedding
            if config.model != "mlp":
                self.gmf_user = user_table(n_users, config.factors)
                self.gmf_item = item_table(n_items, config.factors)
            if config.model != "gmf":
                half = config.layers[0] // 2
                self.mlp_user = user_table(n_users, half)
                self.mlp_item = item_table(n_items, half)
                has_bias = not config.batch_norm  # BatchNorm takes off every bias and adds its own
                n_user = half + (config.factors if config.n_recent else 0)
                self.first = PairLinear(n_user, half, config.layers[1], bias=has_bias)
                hidden: list[nn.Module] = [_activation(config, config.layers[1])]
                for n_in, n_out in zip(config.layers[1:], config.layers[2:], strict=False):
                    hidden += [nn.Linear(n_in, n_out, bias=has_bias), _activation(config, n_out)]
                self.mlp = nn.Sequential(*hidden)
            self.last: nn.Linear
            if config.model == "neumf":
                self.last = PairLinear(config.factors, config.layers[-1], 1)
            else:
                self.last = nn.Linear(config.factors if config.model == "gmf" else config.layers[-1], 1)
            if config.n_recent:
                self.recent = MeanEmbedding(n_items, config.factors, config.n_recent)
                self.register_buffer("last_items", torch.empty(n_users, config.n_recent, dtype=torch.int32))
                if config.model != "mlp":
                    self.next_item = RowEmbedding(n_items, config.factors)
                    self.item_bias = RowEmbedding(n_items, 1)
        if world is not None:
            for table in self.tables():
                table.shard(world)
        initialize(self, seed=seed, draw_linear=self._draw_linear)
        if config.n_recent:
            nn.init.constant_(self.last_items, -1)
            self.recent.reset_places()
            if config.model != "mlp":
                nn.init.zeros_(self.item_bias.weight)

    def tables(self) -> list[RowEmbedding]:
        """The embedding tables."""
        return [module for module in self.modules() if isinstance(module, RowEmbedding)]

    def _draw_linear(self, layer: nn.Linear, generator: torch.Generator) -> None:
        if layer is self.last:
            bound = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        else:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        if layer.bias is not None:
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def forward(self, users: Tensor, items: Tensor, recent: Tensor | None = None) -> Tensor:
        """Return float logits of integer tensors ``users`` and ``items``, of the shape of ``items``.

        Users are (n,) as items are, or (n, 1) for items (n, k): what depends on a user alone is then computed once for
        the user's k items.

        ``recent``, integers (*users.shape, n_recent), the latest first and -1 where there is none, are the items that
        each user had taken before; by default those of ``last_items``. A network without ``n_recent`` does not look at
        them.
        """
        return self.logits(self.vectors(users, items, recent), items)

    def vectors(self, users: Tensor, items: Tensor, recent: Tensor | None = None) -> dict[str, Tensor]:
        """Return what `forward` looks up by the names of the tables, float (*shape, size), of users or of items."""
        found = {}
        if self.config.n_recent:
            recent = self.last_items[users] if recent is None else recent
            found["recent"] = self.recent(recent.flatten(0, -2)).unflatten(0, users.shape)
        if self.config.model != "mlp":
            found |= {"gmf_user": self.gmf_user(users), "gmf_item": self.gmf_item(items)}
            if self.config.n_recent:
                found["next_item"] = self.next_item(items)
        if self.config.model != "gmf":
            found |= {"mlp_user": self.mlp_user(users), "mlp_item": self.mlp_item(items)}
        return found

    def logits(self, vectors: dict[str, Tensor], items: Tensor) -> Tensor:
        """Return float logits, of the shape of ``items``, of the `vectors` of pairs."""
        parts, has_recent = [], self.config.n_recent > 0
        if self.config.model != "mlp":
            parts.append((vectors["gmf_user"] * vectors["gmf_item"]).flatten(0, -2))
        if self.config.model != "gmf":
            user = vectors["mlp_user"]
            if has_recent:
                user = torch.cat([user, vectors["recent"]], dim=-1)
            parts.append(self.mlp(self.first(user, vectors["mlp_item"]).flatten(0, -2)))
        if self.config.model == "gmf" and is_binary(self.gmf_user):
            logits = F.linear(parts[0], self.last.weight.detach(), self.last.bias)
        else:
            logits = self.last(*parts)
        logits = logits.view(items.shape)
        if has_recent and self.config.model != "mlp":
            logits = logits + (vectors["recent"] * vectors["next_item"]).sum(-1) + self.item_bias(items).squeeze(-1)
        return logits


def _activation(config: NCFConfig, width: int) -> nn.Module:
    return BatchNormReLU(width) if config.batch_norm else nn.ReLU()
