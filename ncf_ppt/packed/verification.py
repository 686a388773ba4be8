"""The proof that a packed network computes what the trained one does."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.packed import _kernels
from ncf_ppt.packed.comparisons import (
    LOGIT_TOLERANCE,
    PAIRS,
    Verification,
    boundary_inputs,
    compare,
    compare_embeddings,
    compare_first_boundaries,
    ranks_of_first,
)
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.gmf_packing import verify_gmf
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.packed.tower_verification import verify_tower
from ncf_ppt.serving import served
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation

_TEST_PAIRS = 1 << 18


def verify(
    packed: PackedNetwork, model: Network, users: NDArray[np.int64], candidates: NDArray[np.int32]
) -> Verification:
    """Compare a packed network with the network it was packed from.

    Every bit behind the first 1-bit activation must equal the simulated one, on the pairs and on made-up inputs: for
    each channel products one below, at and one above its threshold, as far as its weights admit them, and inputs of
    zeros, of ones and of all densities between. The first activation must decide equally about equal sums, those next
    to its thresholds included. Logits must agree up to rounding. Embeddings must be the network's, or, if stored as
    int8, within half a step of them; all else is then compared with the network that has the rounded ones.

    Args:
        packed: made by `ncf_ppt.packed.packing.pack`.
        model: the same network; it is evaluated in evaluation mode and put back into the mode it was in.
        users: int64 (n,).
        candidates: int32 (n, m), m at least 1; the first column is what is ranked.

    Of two towers the tower's first activation is what the first one is here, and its vectors are compared, too.

    Raises `DataError` naming the first layer that differs, and TypeError if the two are of different kinds.
    """
    if isinstance(packed, PackedTwoTower):
        if not isinstance(model, TwoTower):
            raise TypeError(f"a packed two-tower network cannot be compared with a {type(model).__name__}")
        return verify_tower(packed, model, users, candidates)
    model = trained = served(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            if isinstance(packed, PackedGMF):
                return verify_gmf(packed, model, users, candidates)
            model = compare_embeddings(packed, model)
            boundary_bits = compare_first_boundaries(packed, model.mlp[0])
            boundary_bits += sum(_compare_boundaries(packed, model, layer) for layer in range(len(packed.hidden)))
            return _verify(packed, model, users, candidates, boundary_bits)
    finally:
        trained.train(was_training)


def verify_on_test_items(packed: PackedNetwork, model: Network, data: PreparedData) -> Verification:
    """`verify` on the held-out items and their negatives, of the first users, about 260,000 pairs.

    Args:
        packed: made by `ncf_ppt.packed.packing.pack`.
        model: the same network.
        data: what it is evaluated on.
    """
    n_users = min(data.n_tested, max(1, _TEST_PAIRS // (1 + data.n_negatives)))
    candidates = np.concatenate([data.test_items[:n_users, None], data.test_negatives[:n_users]], axis=1)
    return verify(packed, model, np.arange(n_users), candidates)


def _verify(
    packed: PackedNCF, model: NCF, users: NDArray[np.int64], candidates: NDArray[np.int32], boundary_bits: int
) -> Verification:
    n_first = packed.first.out_features
    first_differences = compared_bits = changed_ranks = 0
    largest = 0.0
    rows = max(1, PAIRS // candidates.shape[1])
    for start in range(0, len(users), rows):
        block = slice(start, start + rows)
        scores, bits = packed.score_with_bits(users[block], candidates[block])
        catalogue = packed.score_catalogue(users[block])
        if not np.array_equal(scores, np.take_along_axis(catalogue, candidates[block].astype(np.int64), axis=1)):
            raise DataError("scores of the whole catalogue differ from those of pairs; do not use this packed network")
        flat_bits = torch.from_numpy(bits).reshape(-1, bits.shape[2])
        flat_users = torch.from_numpy(np.repeat(users[block], candidates.shape[1]))
        flat_items = torch.from_numpy(candidates[block].reshape(-1).astype(np.int64))

        simulated_first, simulated = _forward(model, flat_users, flat_items)
        first_bits = flat_bits[:, :n_first]
        first_differences += int((simulated_first != first_bits).sum())
        sums = torch.from_numpy(packed.first_sums(users[block], candidates[block])).reshape(-1, n_first)
        compare(model.mlp[0](sums) > 0, first_bits, packed.first_name)
        compared_bits += flat_bits[:, n_first:].numel()
        expected = _logits_of_first_bits(packed, model, flat_users, flat_items, flat_bits)
        difference = (expected - torch.from_numpy(scores).reshape(-1)).abs().max().item()
        if not difference <= LOGIT_TOLERANCE * (1 + expected.abs().max().item()):
            raise DataError(f"packed and simulated logits differ by {difference:g} behind layer {packed.units.name}")
        largest = max(largest, difference)
        changed_ranks += int((ranks_of_first(simulated.reshape(scores.shape).numpy()) != ranks_of_first(scores)).sum())
    return Verification(
        n_pairs=candidates.size,
        compared_bits=compared_bits,
        boundary_bits=boundary_bits,
        first_layer_bits=candidates.size * n_first,
        first_layer_differences=first_differences,
        max_logit_difference=largest,
        n_ranks=len(users),
        changed_ranks=changed_ranks,
    )


def _forward(model: NCF, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of the first 1-bit activation (n, channels) and logits (n,) of the network as it is."""
    outputs: list[Tensor] = []
    handle = model.mlp[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        logits: Tensor = model(users, items)
    finally:
        handle.remove()
    return outputs[0] > 0, logits


def _logits_of_first_bits(packed: PackedNCF, model: NCF, users: Tensor, items: Tensor, bits: Tensor) -> Tensor:
    """Logits that the network makes of the packed network's first bits, each later bit compared on the way."""
    column = packed.first.out_features
    activation = model.mlp[0]
    assert isinstance(activation, BinaryActivation)
    values = bits[:, :column] * activation.alpha
    layers = iter(packed.hidden)
    for layer in list(model.mlp)[1:]:
        values = layer(values)
        if isinstance(layer, BinaryActivation):
            name, width = next(layers).name, values.shape[1]
            compare(values > 0, bits[:, column : column + width], name)
            column += width
    parts = [values]
    if model.config.model != "mlp":
        parts.insert(0, model.gmf_user(users) * model.gmf_item(items))
    logits: Tensor = model.last(*parts)
    return logits.squeeze(1)


def _compare_boundaries(packed: PackedNCF, model: NCF, number: int) -> int:
    """Compare a layer on made-up inputs; return the number of bits."""
    layer = packed.hidden[number]
    inputs = boundary_inputs(layer)
    found = np.empty((len(inputs), layer.out_features), np.uint8)
    counters = packed.counters
    _kernels.fill_layer_bits(inputs, counters.layers, number, counters.rows, counters.starts, counters.constants, found)
    before, linear, activation = list(model.mlp)[2 * number : 2 * number + 3]
    assert isinstance(before, BinaryActivation)
    for start in range(0, len(inputs), PAIRS):
        block = slice(start, start + PAIRS)
        simulated = activation(linear(torch.from_numpy(inputs[block]) * before.alpha)) > 0
        compare(simulated, torch.from_numpy(found[block]), layer.name)
    return found.size
