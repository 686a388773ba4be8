"""What a network of two towers consists of: the user's side is computed once a user, a pair costs a product."""

from dataclasses import replace

from torch import nn

from ncf_ppt.layer_reports import BITS, Form, LayerReport, activation_report, hidden_report, once_a_user, table_report
from ncf_ppt.packed.tower import PackedTwoTower
from ncf_ppt.two_tower import TwoTower


def inspect_packed_tower(packed: PackedTwoTower, *, form: Form) -> list[LayerReport]:
    """Report the layers of a packed network in the order of execution; ``form`` is that of its 1-bit parts."""
    bits = BITS[packed.embeddings]
    table_form: Form = "8-bit" if packed.embeddings == "int8" else "32-bit"
    n_items, factors, first = packed.n_items, packed.items.size, packed.first
    has_norm, width = first.bias is None, first.out_features
    first_bytes = sum(4 * tensor.numel() for tensor in first.state_dict().values())
    reports = [
        hidden_report("tower.0", factors, width, first_bytes, has_norm, "32-bit"),
        activation_report(packed.first_name, width, 1, 5 * width, has_norm, form),
    ]
    for layer in packed.hidden:
        width = layer.out_features
        reports.append(hidden_report(layer.name, layer.in_features, width, layer.signs.nbytes, has_norm, form))
        reports.append(activation_report(_next(layer.name), width, 1, 5 * width, has_norm, form))
    units = packed.units
    n_units = units.out_features
    reports.append(hidden_report(units.name, units.in_features, n_units, units.signs.nbytes, has_norm, form))
    reports.append(activation_report(_next(units.name), n_units, 32, 12 * n_units + 8, has_norm, "32-bit"))
    reports.append(
        hidden_report(_next(_next(units.name)), n_units, factors, 4 * factors * (n_units + 1), False, "32-bit")
    )
    tables = [
        table_report(name, n_items, factors, bits, part.nbytes, table_form) for name, part in packed.tables.items()
    ]
    tables.append(table_report("item_bias", n_items, 1, 32, 4 * n_items, "32-bit"))
    return _in_order(tables, packed.last_items.shape, 4 * packed.n_recent, reports)


def inspect_tower(model: TwoTower) -> list[LayerReport]:
    """Report the layers of a network in full precision in the order of execution."""
    has_norm = model.config.batch_norm
    reports = []
    width = model.config.factors
    for number, layer in enumerate(model.tower):
        name = f"tower.{number}"
        if isinstance(layer, nn.Linear):
            is_last = number == len(model.tower) - 1
            n_in, width = width, layer.out_features
            reports.append(hidden_report(name, n_in, width, None, has_norm and not is_last, "32-bit"))
        else:
            reports.append(activation_report(name, width, 32, None, has_norm, "32-bit"))
    names = {table: name for name, table in model.named_modules()}
    tables = [
        table_report(names[part], part.num_embeddings, part.embedding_dim, 32, None, "32-bit")
        for part in model.tables()
    ]
    return _in_order(tables, tuple(model.last_items.shape), None, reports)


def _in_order(
    tables: list[LayerReport], histories: tuple[int, ...], places_bytes: int | None, tower: list[LayerReport]
) -> list[LayerReport]:
    """The user's side, then the item's."""
    recent, item, bias = tables
    n_recent, factors = histories[1], item.shape[1]
    mean = {"32-bit multiply-add": n_recent * factors}
    places = replace(recent, name="places", kind="Weights", shape=(n_recent,), latent_bytes=4 * n_recent)
    places = replace(places, bits=32, form="32-bit", packed_bytes=places_bytes)
    return [
        once_a_user(replace(recent, operations=mean)),
        places,
        *map(once_a_user, tower),
        replace(item, operations={"32-bit multiply-add": factors}),
        replace(bias, operations={"32-bit add": 1}),
    ]


def _next(name: str) -> str:
    """Name of the layer behind one of the tower."""
    return f"tower.{int(name.split('.')[1]) + 1}"
