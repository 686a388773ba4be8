"""How a network of the NCF family is trained."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ncf_ppt.optimizers import AdamSettings
from ncf_ppt.warm_start import ALSStart
from ppt_core.runs.arithmetic import Wanted
from ppt_core.runs.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class NCFTrainingConfig(TrainingConfig):
    """How the network is trained. The defaults are MLPerf v0.5's recipe, but for 8 epochs and split 0.5.

    An epoch is one pass over ``1 + n_negatives`` samples for each train positive. Its last batch holds the rest; a
    rest of one sample joins the batch before it, since BatchNorm has no variance of one.

    Attributes:
        learning_rate: of Adam, constant.
        beta1: decay rate of Adam's first moment.
        beta2: decay rate of Adam's second moment; ``row-adam`` needs ``beta1 < beta2**1.5`` and
            ``beta2 <= 0.9999``.
        eps: Adam's epsilon, added to the square root of the second moment.
        n_negatives: fresh negatives for each positive in each epoch.
        optimizer: ``row-adam`` is Adam at the cost of the rows that a batch touches (`ncf_ppt.row_adam.RowAdam`);
            ``adam`` is PyTorch's, over dense gradients; None takes the first on a CPU.
        regularization: L2 penalty on the vectors that a batch reads: so many times their sum of squares, divided by the
            number of samples, is part of the loss. 0 is none. It covers rows of users and items and the mean of recent
            items, neither weights of layers nor biases of items.
        batches: ``shuffled`` shuffles an epoch's samples; ``grouped`` its positives, each with its negatives in the
            same batch, so that what depends on their user alone is computed once for all of them. A batch then has as
            many whole groups as ``batch_size`` holds.
        warm_start: start from the factors of ALS (`ncf_ppt.als_start`); None starts from small random weights.
        arithmetic: of the matrix products of 32-bit layers: ``fp32``, or ``bf16`` by autocast. Products of 1-bit
            layers are exact in both on a CPU; elsewhere bf16 rounds them, too. ``auto`` takes the faster, as
            `ppt_core.runs.arithmetic.choose_arithmetic` says.
    """

    learning_rate: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    n_negatives: int = 4
    optimizer: Literal["row-adam", "adam"] | None = None
    arithmetic: Wanted = "fp32"
    batches: Literal["shuffled", "grouped"] = "shuffled"
    regularization: float = 0.0
    warm_start: ALSStart | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values; later ones only if chosen, since older runs have no such keys."""
        values = super().to_dict()
        usual = {field.name: field.default for field in fields(self)}
        for later in ("batches", "regularization", "warm_start", "beta1", "beta2", "eps"):
            if values[later] == usual[later]:
                del values[later]
        if self.warm_start is not None:
            values["warm_start"] = self.warm_start.to_dict()
        return values

    @property
    def adam(self) -> AdamSettings:
        """What the optimizer is made of."""
        return AdamSettings(learning_rate=self.learning_rate, betas=(self.beta1, self.beta2), eps=self.eps)

    @property
    def samples_per_batch(self) -> int:
        """Samples of a batch: ``batch_size``, or the whole groups that it holds."""
        group = 1 + self.n_negatives if self.batches == "grouped" else 1
        return self.batch_size // group * group

    def _rules(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._rules(),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1"),
            ("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1"),
            ("eps", 0 < self.eps < math.inf, "above 0"),
            ("n_negatives", self.n_negatives >= 1, "at least 1"),
            ("optimizer", self.optimizer in (None, "row-adam", "adam"), "row-adam or adam"),
            ("batches", self.batches in ("shuffled", "grouped"), "shuffled or grouped"),
            (
                "batch_size",
                self.batches != "grouped" or self.batch_size > self.n_negatives,
                f"at least {1 + self.n_negatives}, a positive and its negatives, if batches are grouped",
            ),
            ("arithmetic", self.arithmetic in get_args(Wanted), "auto, fp32 or bf16"),
            ("regularization", 0 <= self.regularization < math.inf, "0 or above"),
            ("warm_start", isinstance(self.warm_start, ALSStart | None), "an ALSStart (als in a recipe), or None"),
        ]
