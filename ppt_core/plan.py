"""Which layers become 1-bit, and why the others do not: a plan to read before it is applied."""

from dataclasses import dataclass

from torch import fx, nn

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.graph import ACTIVATIONS, is_projection, module_calls, other_readers, source_activation, target_of
from ppt_core.layers import (
    INITIAL_ALPHA,
    BinaryActivation,
    BinaryBatchNormReLU,
    BinaryConv2d,
    BinaryEmbedding,
    BinaryForkedReLU,
    BinaryLinear,
    BinaryReLU,
    ForkedReLU,
    check_finite,
)

_SWITCHABLE: dict[type[nn.Module], type[BinaryActivation]] = {
    nn.ReLU: BinaryReLU,
    ForkedReLU: BinaryForkedReLU,
    BatchNormReLU: BinaryBatchNormReLU,
}
_WEIGHTED = (nn.Linear, nn.Conv2d)
_ON_SHORTCUT = {"real": "real numbers", "binary": "the same bits"}


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """One layer's fate.

    Attributes:
        name: qualified name in the model.
        kind: class name of the layer.
        binarize: whether it becomes 1-bit.
        reason: why, or why not.
        input_activation: name of the activation that feeds a 1-bit weight layer, else None.
    """

    name: str
    kind: str
    binarize: bool
    reason: str
    input_activation: str | None = None


@dataclass(frozen=True)
class BinarizationPlan:
    """Every weight layer and ReLU of a model in execution order; `str` gives a table."""

    layers: tuple[PlannedLayer, ...]

    def __str__(self) -> str:
        rows = [("layer", "kind", "bits", "why")]
        rows += [(p.name, p.kind, "1" if p.binarize else "32", p.reason) for p in self.layers]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        )


def plan_binarization(model: nn.Module) -> BinarizationPlan:
    """Decide for each Linear, Conv2d, Embedding and ReLU of ``model``, without changing it.

    Binarized are the weight layers between the first and the last *in execution order* whose input is the output
    of a ReLU module, and those ReLUs. The first and the last weight layer, layers whose input is real-valued,
    projection shortcuts (1x1 convolutions beside a residual branch), embeddings and BatchNorm keep 32 bits
    (Renda and Fromm 2020). A `BinaryEmbedding` becomes 1-bit wherever it stands: that it is one is the choice.

    What else reads such a ReLU keeps 32 bits as well, and real values to read: a projection, the sum behind an
    identity, a second head. The reason of the ReLU names them.

    Raises ValueError if the model cannot be traced, was converted before, holds weights that are not finite, has
    nothing to binarize, or calls an activation that would be binarized more than once.
    """
    if any(isinstance(m, (BinaryActivation, BinaryLinear, BinaryConv2d)) for m in model.modules()):
        raise ValueError("the model was converted before; convert a model once and switch it with set_precision")
    check_finite(model)
    calls = module_calls(model)
    weighted = [node for node, module in calls if isinstance(module, _WEIGHTED)]
    modules = dict(calls)

    sources: dict[fx.Node, fx.Node | None] = {node: source_activation(node, modules) for node in weighted}
    decisions: dict[fx.Node, tuple[bool, str]] = {}
    for node in weighted:
        if node is weighted[0]:
            decisions[node] = (False, "first layer")
        elif node is weighted[-1]:
            decisions[node] = (False, "last layer")
        elif type(modules[node]) not in _WEIGHTED:
            decisions[node] = (False, f"a class of its own: {type(modules[node]).__name__} is not binarized")
        elif is_projection(node, modules):
            decisions[node] = (False, "projection shortcut")
        elif sources[node] is None:
            decisions[node] = (False, "its input is real-valued: not the output of a ReLU module")
        else:
            decisions[node] = (True, f"its input is {target_of(sources[node])}, 1 bit")
    binary = {node for node in weighted if decisions[node][0]}
    binary_sources = {sources[node] for node in binary}
    if not binary_sources and not any(isinstance(module, BinaryEmbedding) for module in modules.values()):
        raise ValueError(
            "the model has nothing to binarize: no Linear or Conv2d between its first and its last layer "
            "takes the output of a ReLU module"
        )

    planned = []
    for node, module in calls:
        if isinstance(module, _WEIGHTED):
            binarize, reason = decisions[node]
            source = target_of(sources[node]) if binarize else None
            planned.append(_planned(node, module, binarize, reason, source))
        elif isinstance(module, ACTIVATIONS):
            binarize = node in binary_sources
            reason = "feeds a 1-bit layer" if binarize else "feeds no 1-bit layer"
            if binarize and isinstance(module, ForkedReLU):
                reason += f"; its shortcut reads {_ON_SHORTCUT[module.shortcut_activation]}"
            if binarize and (others := other_readers(node, modules, binary)):
                reason += f", and gives real values to {', '.join(others)}"
            planned.append(_planned(node, module, binarize, reason))
        elif isinstance(module, BinaryEmbedding):
            planned.append(_planned(node, module, True, "embedding, 1 bit by choice"))
        elif isinstance(module, nn.Embedding):
            planned.append(_planned(node, module, False, "embedding"))
    for entry in planned:
        called = sum(other.name == entry.name for other in planned)
        if entry.binarize and called > 1:
            raise ValueError(
                f"{entry.name} is called {called} times in one forward pass, and each place needs a state of its own; "
                "give every place its own module"
            )
    return BinarizationPlan(tuple(planned))


def convert(model: nn.Module, plan: BinarizationPlan | None = None) -> BinarizationPlan:
    """Make ``model`` switchable in place, and leave it in full precision, computing what it did before.

    Parameters stay the same objects under the same state_dict keys, so optimizers and checkpoints keep working.
    New keys appear beside them: ``alpha`` in each binarized activation and ``scale`` in each binarized layer.
    Switch with `ppt_core.layers.set_precision`.

    Args:
        model: any module that `plan_binarization` accepts.
        plan: an edited plan, with 32 bits for more layers; by default the planned one.

    Raises ValueError, and changes nothing, where `plan_binarization` does and for a plan that does not fit the model.
    """
    planned = plan_binarization(model)
    plan = planned if plan is None else plan
    possible, wanted = ({entry.name for entry in p.layers if entry.binarize} for p in (planned, plan))
    for entry in planned.layers:
        if isinstance(model.get_submodule(entry.name), BinaryEmbedding) and entry.name not in wanted:
            raise ValueError(f"{entry.name} is 1-bit by its class; to keep 32 bits make it an nn.Embedding")
    for entry in plan.layers:
        if entry.binarize and not {entry.name, entry.input_activation or entry.name} <= possible & wanted:
            raise ValueError(
                f"the plan binarizes {entry.name}, which cannot be 1-bit or whose input keeps 32 bits; an edited plan "
                "may only keep 32 bits for more layers, and for an activation together with the layers it feeds"
            )
    modules = dict(model.named_modules())
    calls = dict(module_calls(model))
    binary = {node for node, module in calls.items() if isinstance(module, _WEIGHTED) and target_of(node) in wanted}
    shared = {target_of(node) for node in calls if other_readers(node, calls, binary)}
    for entry in plan.layers:
        if entry.binarize and isinstance(module := modules[entry.name], ACTIVATIONS):
            if isinstance(module, nn.ReLU):
                module.inplace = False
            module.__class__ = next(new for old, new in _SWITCHABLE.items() if isinstance(module, old))
            assert isinstance(module, BinaryActivation)
            module.alpha = nn.Parameter(next(model.parameters()).new_tensor(INITIAL_ALPHA))
            module.precision = "full"
            module.gives_real = entry.name in shared
    for entry in plan.layers:
        module = modules[entry.name]
        if entry.binarize and isinstance(module, _WEIGHTED):
            assert entry.input_activation is not None
            module.__class__ = BinaryLinear if isinstance(module, nn.Linear) else BinaryConv2d
            assert isinstance(module, (BinaryLinear, BinaryConv2d))
            module.register_buffer("scale", module.weight.new_ones(()))
            module.precision = "full"
            activation = modules[entry.input_activation]
            assert isinstance(activation, BinaryActivation)
            module._input_activation = (activation,)  # in a tuple, so that it is not registered a second time
    return plan


def _planned(node: fx.Node, module: nn.Module, binarize: bool, reason: str, source: str | None = None) -> PlannedLayer:
    return PlannedLayer(
        name=target_of(node),
        kind=type(module).__name__,
        binarize=binarize,
        reason=reason,
        input_activation=source,
    )
