"""NeuMF, GMF and MLP: neural collaborative filtering (He et al. 2017) as MLPerf v0.5 ran it, with BatchNorm."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ncf_ppt.row_adam import BinaryRowEmbedding, RowEmbedding
from ppt_core.batch_norm import BatchNormReLU
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
        binarize_embeddings: in low precision every row of an embedding table is a sign for each component and one
            scale, see `ppt_core.binarize.binarize_rows`.
    """

    model: Literal["neumf", "gmf", "mlp"] = "neumf"
    factors: int = 64
    layers: tuple[int, ...] = (256, 256, 128, 64)
    batch_norm: bool = True
    binarize_embeddings: bool = False

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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NCFConfig":
        """Read what `to_dict` returned."""
        return cls(**values | {"layers": tuple(values["layers"])})

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values; ``binarize_embeddings`` only if chosen, since older runs have no such key."""
        values = asdict(self) | {"layers": list(self.layers)}
        if not self.binarize_embeddings:
            del values["binarize_embeddings"]
        return values


class NCF(nn.Module):
    """Score of (user, item) pairs: a logit.

    ``gmf_user * gmf_item`` and the MLP of ``[mlp_user; mlp_item]`` meet, side by side, in one last Linear.
    Embeddings start at N(0, 0.01), MLP weights Glorot uniform, the last layer LeCun uniform, MLP biases as
    PyTorch's Linear has them, the last bias likewise.

    Args:
        n_users: rows of the user tables.
        n_items: rows of the item tables.
        config: the shape of the network.
        seed: the initial weights are a function of the other arguments and the seed alone.
    """

    def __init__(self, n_users: int, n_items: int, config: NCFConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no draws from the global generator; real memory comes below
            table = BinaryRowEmbedding if config.binarize_embeddings else RowEmbedding
            if config.model != "mlp":
                self.gmf_user = table(n_users, config.factors)
                self.gmf_item = table(n_items, config.factors)
            if config.model != "gmf":
                half = config.layers[0] // 2
                self.mlp_user = table(n_users, half)
                self.mlp_item = table(n_items, half)
                has_bias = not config.batch_norm  # BatchNorm takes off every bias and adds its own
                self.first = PairLinear(half, half, config.layers[1], bias=has_bias)
                hidden: list[nn.Module] = [_activation(config, config.layers[1])]
                for n_in, n_out in zip(config.layers[1:], config.layers[2:], strict=False):
                    hidden += [nn.Linear(n_in, n_out, bias=has_bias), _activation(config, n_out)]
                self.mlp = nn.Sequential(*hidden)
            self.last: nn.Linear
            if config.model == "neumf":
                self.last = PairLinear(config.factors, config.layers[-1], 1)
            else:
                self.last = nn.Linear(config.factors if config.model == "gmf" else config.layers[-1], 1)
        self.to_empty(device="cpu")
        self._initialize(torch.Generator().manual_seed(seed))

    def tables(self) -> list[RowEmbedding]:
        """The embedding tables."""
        return [module for module in self.modules() if isinstance(module, RowEmbedding)]

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.01, generator=generator)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                if module is self.last:
                    bound = math.sqrt(3 / module.in_features)
                    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    bound = 1 / math.sqrt(module.in_features)
                    nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return float logits (n,) of integer tensors ``users`` (n,) and ``items`` (n,)."""
        parts = []
        if self.config.model != "mlp":
            parts.append(self.gmf_user(users) * self.gmf_item(items))
        if self.config.model != "gmf":
            parts.append(self.mlp(self.first(self.mlp_user(users), self.mlp_item(items))))
        logits: Tensor = self.last(*parts)
        return logits.squeeze(1)


def _activation(config: NCFConfig, width: int) -> nn.Module:
    return BatchNormReLU(width) if config.batch_norm else nn.ReLU()
