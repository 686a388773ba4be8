"""The proof that a packed network of two towers computes what the trained one does."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncf_ppt.baselines import MatrixFactorization
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
from ncf_ppt.packed.tower import PackedTwoTower
from ncf_ppt.two_tower import TwoTower, blocks_of_histories
from ppt_core.bits.pack import pack_rows, unpack_signs
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation


def verify_tower(
    packed: PackedTwoTower, model: TwoTower, users: NDArray[np.int64], candidates: NDArray[np.int32]
) -> Verification:
    """See `ncf_ppt.packed.verification.verify`; the bits are compared on the histories of all ``users``."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            _compare_kept(packed, model)
            rounded = compare_embeddings(packed, model)
            boundary_bits = compare_first_boundaries(packed, rounded.tower[1])
            boundary_bits += sum(_compare_boundaries(packed, rounded, layer) for layer in range(len(packed.hidden)))
            return _verify(packed, rounded, users, candidates, boundary_bits)
    finally:
        model.train(was_training)


def _compare_kept(packed: PackedTwoTower, model: TwoTower) -> None:
    """Compare what is kept as it was trained, whatever becomes of the tables."""
    kept = {
        "last_items": (torch.from_numpy(packed.last_items), model.last_items),
        "places": (torch.from_numpy(packed.places), model.recent.places),
        "item_bias": (torch.from_numpy(packed.item_biases), model.item_bias.values()[:, 0]),
    }
    for number, layer in ((0, packed.first), (len(model.tower) - 1, packed.last)):
        state = model.tower[number].state_dict()
        kept |= {f"tower.{number}.{part}": (tensor, state[part]) for part, tensor in layer.state_dict().items()}
    for name, (ours, theirs) in kept.items():
        if not torch.equal(ours, theirs.to(ours.dtype)):
            raise DataError(f"{name} differs from the network's; do not use this packed network, and report it")


def _verify(
    packed: PackedTwoTower, model: TwoTower, users: NDArray[np.int64], candidates: NDArray[np.int32], boundary_bits: int
) -> Verification:
    first_differences = compared_bits = 0
    histories = packed.last_items[users]
    expected = np.ones((len(users), packed.items.size + 1), np.float32)
    for rows, block in blocks_of_histories(histories):
        n_rows = rows.stop - rows.start
        means = packed.means(block)
        if not torch.equal(means, model.recent(block)):
            raise DataError("means of the last items differ from the network's; do not use this packed network")
        words = packed.first_bits(packed.first(means))
        bits = _unpack(words, packed.first.out_features)
        compare(model.tower[1](packed.first(means)) > 0, bits, packed.first_name)
        simulated = model.tower[1](model.tower[0](means)) > 0
        first_differences += int((simulated != bits)[:n_rows].sum())
        compared_bits += n_rows * sum(layer.out_features for layer in packed.hidden)
        expected[rows, :-1] = (means + _tower_of_first_bits(packed, model, words, bits))[:n_rows].numpy()
    found = packed.user_vectors(histories)
    items = model.item_vectors()
    if not np.abs(found - expected).max(initial=0) <= LOGIT_TOLERANCE * (1 + np.abs(expected).max(initial=0)):
        raise DataError(f"packed and simulated vectors differ behind layer {packed.units.name}")
    numbers = np.arange(len(users))
    scores = packed(users, candidates)
    logits = MatrixFactorization(user_vectors=expected, item_vectors=items)(numbers, candidates)
    difference = float(np.abs(scores - logits).max(initial=0))
    if not difference <= LOGIT_TOLERANCE * (1 + np.abs(logits).max(initial=0)):
        raise DataError(f"packed and simulated scores differ by {difference:g} behind layer {packed.units.name}")
    own = MatrixFactorization(user_vectors=model.user_vectors(histories), item_vectors=items)(numbers, candidates)
    return Verification(
        n_pairs=candidates.size,
        compared_bits=compared_bits,
        boundary_bits=boundary_bits,
        first_layer_bits=len(users) * packed.first.out_features,
        first_layer_differences=first_differences,
        max_logit_difference=difference,
        n_ranks=len(users),
        changed_ranks=int((ranks_of_first(own) != ranks_of_first(scores)).sum()),
    )


def _tower_of_first_bits(packed: PackedTwoTower, model: TwoTower, words: NDArray[np.uint64], bits: Tensor) -> Tensor:
    """What the tower makes of the packed network's first bits, each later bit and hidden unit compared on the way."""
    all_words, units = packed.hidden_units(words)
    activation = model.tower[1]
    assert isinstance(activation, BinaryActivation)
    values = bits * activation.alpha
    found = iter(zip(packed.hidden, all_words, strict=True))
    for module in list(model.tower)[2:-1]:
        values = module(values)
        if isinstance(module, BinaryActivation):
            layer, words = next(found)
            compare(values > 0, _unpack(words, layer.out_features), layer.name)
    if not torch.equal(values, units):
        raise DataError(f"hidden units behind layer {packed.units.name} differ from the simulated network's")
    result: Tensor = model.tower[-1](values)
    return result


def _compare_boundaries(packed: PackedTwoTower, model: TwoTower, number: int) -> int:
    """Compare a layer on made-up inputs; return the number of bits."""
    layer = packed.hidden[number]
    inputs = boundary_inputs(layer)
    before, linear, activation = list(model.tower)[2 * number + 1 : 2 * number + 4]
    assert isinstance(before, BinaryActivation)
    for start in range(0, len(inputs), PAIRS):
        block = inputs[start : start + PAIRS]
        simulated = activation(linear(torch.from_numpy(block) * before.alpha)) > 0
        compare(simulated, _unpack(layer(pack_rows(block.astype(bool))), layer.out_features), layer.name)
    return len(inputs) * layer.out_features


def _unpack(words: NDArray[np.uint64], n_channels: int) -> Tensor:
    """Packed rows as bool (n, n_channels)."""
    return torch.from_numpy(unpack_signs(words.T, n_channels))
