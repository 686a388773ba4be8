"""Pack a trained NCF network in low precision."""

from typing import Any, Literal

from numpy.typing import NDArray
from torch import nn

from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.packed.counters import MAX_WIDTH
from ncf_ppt.packed.gmf_packing import pack_gmf
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.table import Embeddings, PackedTable, embeddings_of
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.packed.tower_packing import check_activation, pack_tower
from ncf_ppt.serving import served
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError
from ppt_core.layers import check_finite
from ppt_core.packed.linear import PackedLinear, pack_linear, pack_relu_linear
from ppt_core.packed.thresholds import float_thresholds
from ppt_core.pair_linear import PairLinear


def pack(
    model: Network,
    *,
    user_ids: NDArray[Any],
    item_ids: NDArray[Any],
    protocol: str,
    provenance: dict[str, Any] | None = None,
    embeddings: Literal["float32", "int8"] | None = None,
) -> PackedNetwork:
    """Pack a network on a CPU. Verify the result with `ncf_ppt.packed.verification.verify`.

    Args:
        model: in low precision; it is evaluated in evaluation mode and put back into the mode it was in.
        user_ids: original ids, int64 or str objects (n_users,).
        item_ids: original ids, int64 or str objects (n_items,).
        protocol: label of the protocol that the network is evaluated by.
        provenance: where it comes from, as JSON values.
        embeddings: None keeps them as they were trained, at 32 bits or at 1; ``int8`` rounds those of 32 bits, a scale
            for each row.

    A gmf network must have 1-bit embeddings, of its items at least, and gives a `ncf_ppt.packed.gmf.PackedGMF`.

    Raises `DataError`, naming the layer, for what cannot be packed, and ValueError for weights that are not finite and
    for a network on another device.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"the network is on {device}; move it to the CPU to pack it")
    check_finite(model)
    model = model if isinstance(model, TwoTower) else served(model)
    stored = embeddings_of(model.tables())
    if stored != "float32" and embeddings is not None:
        raise ValueError(f"embeddings is {embeddings!r}, but this network's are 1-bit and are kept so; leave it out")
    was_training = model.training
    model.eval()
    more: dict[str, Any] = {"user_ids": user_ids, "item_ids": item_ids, "protocol": protocol}
    more |= {"provenance": provenance or {}}
    try:
        if model.config.model == "gmf":
            assert isinstance(model, NCF)
            return pack_gmf(model, **more)
        more["embeddings"] = embeddings or stored
        return pack_tower(model, **more) if isinstance(model, TwoTower) else _pack(model, **more)
    finally:
        model.train(was_training)


def _pack(
    model: NCF,
    *,
    user_ids: NDArray[Any],
    item_ids: NDArray[Any],
    protocol: str,
    provenance: dict[str, Any],
    embeddings: Embeddings,
) -> PackedNCF:
    for name, layer in (("first", model.first), ("last", model.last)):
        if type(layer) not in (nn.Linear, PairLinear):
            raise DataError(f"layer {name} is a {type(layer).__name__}; only a Linear of 32 bits can be packed")
    names = [f"mlp.{number}" for number in range(len(model.mlp))]
    layers = dict(zip(names, model.mlp, strict=True))
    for name in names[:-1:2]:
        check_activation(layers[name], name)
    if len(names) < 3:
        raise DataError("the network holds no 1-bit layer, so there is nothing to pack; train one with more layers")
    for name in names[1::2]:
        _check_width(layers[name], name)
    hidden: list[PackedLinear] = []
    for name, follower in zip(names[1:-2:2], names[2:-1:2], strict=True):
        hidden.append(pack_linear(layers[name], layers[follower], name=name))
    units = pack_relu_linear(layers[names[-2]], layers[names[-1]], name=names[-2], activation_name=names[-1])
    n_users, n_items = model.mlp_user.num_embeddings, model.mlp_item.num_embeddings
    has_factors = model.config.model == "neumf"
    return PackedNCF(
        user_factors=PackedTable.of(model.gmf_user, embeddings) if has_factors else PackedTable.empty(n_users),
        item_factors=PackedTable.of(model.gmf_item, embeddings) if has_factors else PackedTable.empty(n_items),
        user_features=PackedTable.of(model.mlp_user, embeddings),
        item_features=PackedTable.of(model.mlp_item, embeddings),
        embeddings=embeddings,
        first=_copy(model.first),
        first_name=names[0],
        first_thresholds=float_thresholds(layers[names[0]], model.first.out_features),
        hidden=tuple(hidden),
        units=units,
        last_weight=model.last.weight.detach()[0].numpy().copy(),
        last_bias=model.last.bias.item(),
        user_ids=user_ids,
        item_ids=item_ids,
        protocol=protocol,
        provenance=provenance,
    )


def _check_width(layer: nn.Module, name: str) -> None:
    if isinstance(layer, nn.Linear) and layer.in_features > MAX_WIDTH:
        raise DataError(f"layer {name} has {layer.in_features:,} inputs; at most {MAX_WIDTH:,} can be packed")


def _copy(first: PairLinear) -> PairLinear:
    y_features = first.in_features - first.x_features
    copy = PairLinear(first.x_features, y_features, first.out_features, bias=first.bias is not None)
    copy.load_state_dict(first.state_dict())
    return copy
