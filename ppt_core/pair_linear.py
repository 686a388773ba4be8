"""A linear layer over two inputs side by side."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PairLinear(nn.Linear):
    """`nn.Linear` of ``[x; y]``, computed as ``W_x x + b + W_y y`` without joining the two.

    Joining costs a pass over memory each way; and where many x meet many y, each half is needed once only
    (`x_half`, `y_half`), since their sum is the layer.

    Args:
        x_features: number of features of x.
        y_features: number of features of y.
        out_features: number of outputs.
        bias: whether there is a ``b``.
    """

    def __init__(self, x_features: int, y_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(x_features + y_features, out_features, bias)
        self.x_features = x_features

    def x_half(self, x: Tensor) -> Tensor:
        """Map x (n, x_features) to ``W_x x + b`` (n, out_features)."""
        return F.linear(x, self.weight[:, : self.x_features], self.bias)

    def y_half(self, y: Tensor) -> Tensor:
        """Map y (n, y_features) to ``W_y y`` (n, out_features)."""
        return F.linear(y, self.weight[:, self.x_features :])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        """Map x (n, x_features) and y (n, y_features) to (n, out_features).

        Or x (n, 1, x_features) and y (n, k, y_features) to (n, k, out_features): each x meets k of y, its half computed
        once.
        """
        if x.dim() > 2:
            return self.y_half(y).add_(self.x_half(x))
        return torch.addmm(self.x_half(x), y, self.weight[:, self.x_features :].t())
