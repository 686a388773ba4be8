"""What feeds what in a model: its calls, traced, and the questions that a plan asks of them."""

import operator
from collections.abc import Iterable, Iterator

import torch
from torch import fx, nn

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.layers import ForkedReLU

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, ForkedReLU, BatchNormReLU)
# Modules that pass {0, alpha} on as {0, alpha}, in another arrangement.
_TRANSPARENT = (nn.Flatten, nn.Identity, nn.MaxPool2d)
# What reads a tensor's shape or kind and none of its values.
_QUESTIONS = ("size", "dim", "ndimension", "numel", "nelement", "shape", "ndim", "dtype", "device")


def target_of(node: fx.Node | None) -> str:
    """Qualified name of the module that a call is of. None, where a plan says there is a call, is a mistake."""
    assert node is not None
    return str(node.target)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take modules without children as they are: this project's own as well as PyTorch's."""
        return not list(m.children()) or super().is_leaf_module(m, module_qualified_name)


def module_calls(model: nn.Module) -> list[tuple[fx.Node, nn.Module]]:
    """Every call of a leaf module, in execution order."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # fx raises many kinds, depending on what the forward does
        raise ValueError(
            f"the forward pass of {type(model).__name__} cannot be traced ({' '.join(str(error).split())}); "
            "its control flow must not depend on its inputs"
        ) from error
    return [(node, model.get_submodule(target_of(node))) for node in graph.nodes if node.op == "call_module"]


def source_activation(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> fx.Node | None:
    """The ReLU module whose output reaches ``node`` unchanged but for its arrangement, or None."""
    if len(node.all_input_nodes) != 1:
        return None
    (source,) = node.all_input_nodes
    while True:
        module = modules.get(source)
        if _forked(source, modules) is not None:
            return _forked(source, modules) if source.args[1] == 0 else None
        if type(module) in ACTIVATIONS:
            return source
        if not _rearranges(source, modules):
            return None
        source = source.all_input_nodes[0]


def _rearranges(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> bool:
    return (
        isinstance(modules.get(node), _TRANSPARENT)
        or (node.op == "call_function" and node.target is torch.flatten)
        or (node.op == "call_method" and node.target in ("flatten", "view", "reshape"))
    )


def other_readers(node: fx.Node, modules: dict[fx.Node, nn.Module], binary: Iterable[fx.Node]) -> list[str]:
    """Names of what reads the values of a ReLU, rearranged or not, beside the 1-bit layers."""
    readers = [reader for reader in _readers(node, modules) if reader not in binary]
    names = [target_of(reader) if reader in modules else _operation(reader) for reader in readers]
    return list(dict.fromkeys(names))


def _readers(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> Iterator[fx.Node]:
    for user in node.users:
        if _forked(user, modules) is not None:
            if user.args[1] == 0:  # the other output is real anyway
                yield from _readers(user, modules)
        elif _rearranges(user, modules) and user.all_input_nodes[0] is node:
            yield from _readers(user, modules)
        elif not _asks(user):
            yield user


def _asks(node: fx.Node) -> bool:
    question = node.args[1] if node.target is getattr else node.target
    return node.op in ("call_function", "call_method") and question in _QUESTIONS


def _operation(node: fx.Node) -> str:
    """What a call or the end of the graph is called."""
    return "the output" if node.op == "output" else str(getattr(node.target, "__name__", node.target))


def _forked(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> fx.Node | None:
    """The `ForkedReLU` that ``node`` is one output of, or None."""
    if node.op == "call_function" and node.target is operator.getitem:
        source = node.args[0]
        return source if isinstance(source, fx.Node) and isinstance(modules.get(source), ForkedReLU) else None
    return None


def is_projection(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> bool:
    """Whether a 1x1 convolution stands alone (with a ReLU and a BatchNorm of its own) between a branch and a sum."""
    module = modules[node]
    if not (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)) or len(node.all_input_nodes) != 1:
        return False
    (source,) = node.all_input_nodes
    source = _forked(source, modules) or source
    if isinstance(modules.get(source), nn.ReLU) and len(source.users) == 1:
        (source,) = source.all_input_nodes
    consumer = node
    while len(consumer.users) == 1:
        (consumer,) = consumer.users
        if not isinstance(modules.get(consumer), nn.BatchNorm2d):
            break
    is_sum = consumer.op in ("call_function", "call_method") and _operation(consumer) in ("add", "iadd", "add_")
    # Beside the branch itself it would be a residual branch, not the shortcut of one.
    return is_sum and len(source.users) > 1 and source not in consumer.all_input_nodes
