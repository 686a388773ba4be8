"""How each network is usually trained: values from the sources, compressible to any budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn

from ppt_core.layers import BinaryActivation
from ppt_core.schedule import Constant, Cosine, LearningRate, Step, WarmUp
from vision_ppt.networks import NetworkName

RecipeName = Literal["cifar", "imagenet"]
Annealing = Literal["step", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent with momentum (Nesterov's is not used), weight decay and a schedule.

    The schedule is a function of progress, so it fits any budget: `ppt_core.schedule.PhaseSchedule` runs all of it
    in each phase. ``dataclasses.replace`` overrides a value; another batch size changes nothing else.

    Attributes:
        batch_size: images in a step.
        epochs: passes over the training images.
        learning_rate: the highest one.
        milestones: progress at which it drops to a tenth.
        warm_up: progress during which it rises linearly from 0; 0 for none.
        annealing: ``step`` drops at the milestones; ``cosine`` and ``constant`` take the place of that.
        momentum: of the gradients.
        weight_decay: added to the gradient as ``weight_decay * weight``.
        decays_batch_norm: whether BatchNorm's weights and biases decay too.
        source: where the values come from.
    """

    batch_size: int
    epochs: float
    learning_rate: float
    milestones: tuple[float, ...]
    warm_up: float = 0.0
    annealing: Annealing = "step"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decays_batch_norm: bool = True
    source: str

    def schedule(self) -> LearningRate:
        """The learning rate as a function of progress."""
        annealed: LearningRate
        if self.annealing == "step":
            annealed = Step(self.learning_rate, milestones=self.milestones)
        elif self.annealing == "cosine":
            annealed = Cosine(self.learning_rate)
        else:
            annealed = Constant(self.learning_rate)
        return WarmUp(annealed, fraction=self.warm_up) if self.warm_up else annealed

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a phase over all parameters. The learning rate is set at each step.

        Alphas do not decay: their penalty is a part of the loss (`ppt_core.layers.alpha_penalty`). They are a group
        of their own, since fused SGD wants momentum of all of a group or of none, and theirs begins at the switch.
        """
        alphas = {id(module.alpha) for module in model.modules() if isinstance(module, BinaryActivation)}
        norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
        undecayed = set() if self.decays_batch_norm else norms
        others = [p for p in model.parameters() if id(p) not in alphas]
        groups = [
            {"params": [p for p in others if id(p) not in undecayed], "weight_decay": self.weight_decay},
            {"params": [p for p in others if id(p) in undecayed], "weight_decay": 0.0},
            {"params": [p for p in model.parameters() if id(p) in alphas], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]], lr=0.0, momentum=self.momentum, fused=True
        )


RECIPES: Mapping[RecipeName, Recipe] = MappingProxyType(
    {
        "cifar": Recipe(
            batch_size=128,
            epochs=182,  # 64,000 iterations on 45,000 images, as the source trains
            learning_rate=0.1,
            milestones=(0.5, 0.75),
            source="He et al. 2016, section 4.2",
        ),
        "imagenet": Recipe(
            batch_size=1024,
            epochs=90,
            learning_rate=0.4,
            milestones=(30 / 90, 60 / 90, 80 / 90),
            warm_up=5 / 90,
            decays_batch_norm=False,
            source="Goyal et al. 2017, sections 2.2 and 5.1",
        ),
    }
)

USUAL_RECIPE: Mapping[NetworkName, RecipeName] = MappingProxyType(
    {"resnet20": "cifar", "vgg16": "cifar", "resnet34": "imagenet"}
)
