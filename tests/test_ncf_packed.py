import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed import packing
from ncf_ppt.packed.comparisons import boundary_inputs
from ncf_ppt.packed.file import load_packed, save_packed
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.tiles import Tiles
from ncf_ppt.packed.verification import verify
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recommendation import recommend
from ncf_ppt.scoring import NetworkScorer, scorer
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.bits.pack import unpack_signs
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryBatchNormReLU, BinaryLinear, set_precision
from ppt_core.plan import BinarizationPlan, convert, plan_binarization
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.run import Run

N_USERS, N_ITEMS = 70, 1100  # more than two blocks of items, and more users than share a task
SHAPES = [
    NCFConfig(factors=8, layers=(16, 65, 64, 5)),
    NCFConfig(factors=3, layers=(6, 1, 63, 127, 1)),
    NCFConfig(model="mlp", layers=(8, 256, 128, 64)),
    NCFConfig(factors=17, layers=(10, 64, 9), batch_norm=False),
    NCFConfig(factors=2, layers=(4, 300, 2, 70), batch_norm=False),
    NCFConfig(factors=2, layers=(6, 520, 7)),  # counts of more than 8 bits
]


def network(config: NCFConfig, *, seed: int = 0) -> NCF:
    """A network in low precision, BatchNorm as it may become: weights negative, tiny and zero, biases large."""
    torch.manual_seed(seed)
    model = NCF(N_USERS, N_ITEMS, config, seed=seed)
    convert(model)
    set_precision(model, "low")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.mul_(50)
            elif isinstance(module, BinaryActivation):
                module.alpha.fill_(0.1 + torch.rand(()))
        for _ in range(20):
            model.train()(torch.randint(N_USERS, (256,)), torch.randint(N_ITEMS, (256,)))
        for module in model.modules():
            if isinstance(module, BatchNormReLU):
                odd_weights = torch.tensor([0.0, -0.0, 1e-30, -1e-6, -5.0])
                odd_biases = torch.tensor([0.0, 20.0, -20.0])
                for tensor, odd in ((module.weight, odd_weights), (module.bias, odd_biases)):
                    values = torch.cat([torch.randn(4 * len(odd)), odd])
                    tensor.copy_(values[torch.randint(len(values), tensor.shape)])
    return model.eval()


def packed_network(model: NCF, **keywords: Any) -> PackedNCF:
    ids = {"user_ids": np.arange(N_USERS) * 3 + 1, "item_ids": np.arange(N_ITEMS) + 10}
    packed = pack(model, protocol="leave-one-out, 9 negatives, strict", **(ids | keywords))
    assert isinstance(packed, PackedNCF)
    return packed


def candidates(n_users: int, n: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, N_ITEMS, (n_users, n)).astype(np.int32)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> NCF:
    return network(SHAPES[0])


@pytest.fixture(scope="module")
def packed(model: NCF) -> PackedNCF:
    return packed_network(model)


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_bit_equals_the_simulated_one(config: NCFConfig, seed: int) -> None:
    model = network(config, seed=seed)
    users = np.arange(0, N_USERS, 5)
    found = verify(packed_network(model), model, users, candidates(len(users), 600))
    widths = config.layers[1:-1]
    assert found.n_pairs == len(users) * 600
    assert found.compared_bits == found.n_pairs * sum(widths[1:])
    assert found.first_layer_bits == found.n_pairs * widths[0]
    assert found.boundary_bits >= sum(64 * width for width in widths[1:])
    assert found.first_layer_differences <= 1e-5 * found.first_layer_bits
    assert found.max_logit_difference < 1e-5
    assert found.n_ranks == len(users)
    assert found.changed_ranks <= 1


def test_bits_are_those_of_the_modules(model: NCF, packed: PackedNCF) -> None:
    """Without the verification: one pair after the other through the modules."""
    users, items = np.array([3, 69, 0]), candidates(3, 40)
    _, bits = packed.score_with_bits(users, items)
    with torch.no_grad():
        for row, column in np.ndindex(items.shape):
            x = model.first(model.mlp_user.weight[users[row]][None], model.mlp_item.weight[items[row, column]][None])
            expected = []
            for layer in model.mlp:
                x = layer(x)
                if isinstance(layer, BinaryActivation):
                    expected += (x[0] > 0).int().tolist()
            assert bits[row, column].tolist() == expected


def test_first_sums_are_those_of_the_scorer(model: NCF, packed: PackedNCF) -> None:
    users, items = np.array([3, 69, 0]), candidates(3, 40)
    reference = NetworkScorer(model)
    assert isinstance(reference.user_half, torch.Tensor)
    assert reference.item_half is not None
    expected = reference.user_half[users][:, None] + reference.item_half[items.astype(np.int64)]
    np.testing.assert_array_equal(packed.first_sums(users, items), expected.numpy())


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_score_is_a_function_of_its_pair(config: NCFConfig) -> None:
    model = network(config)
    packed = packed_network(model)
    users = np.random.default_rng(0).permutation(N_USERS)
    catalogue = packed.score_catalogue(users)
    assert catalogue.shape == (N_USERS, N_ITEMS)
    assert catalogue.dtype == np.float32
    np.testing.assert_allclose(
        catalogue, scorer(model)(users, np.tile(np.arange(N_ITEMS, dtype=np.int32), (70, 1))), atol=1e-4
    )
    for n in (1, 2):
        with threads(min(n, numba.config.NUMBA_NUM_THREADS)):
            for some in (users[:1], users[5:], users[::-1]):
                order = [users.tolist().index(user) for user in some]
                np.testing.assert_array_equal(packed.score_catalogue(some), catalogue[order])
            for n_candidates in (1, 60, 700):  # gathered, and looked up in the whole catalogue
                items = candidates(N_USERS, n_candidates)
                expected = np.take_along_axis(catalogue, items.astype(np.int64), axis=1)
                np.testing.assert_array_equal(packed(users, items), expected)
                np.testing.assert_array_equal(packed.score_with_bits(users, items)[0], expected)


def test_a_catalogue_of_several_sections(model: NCF, packed: PackedNCF) -> None:
    other = packed_network(model)
    other.__dict__["_tiles"] = Tiles.of(other._item_values, other.item_factors[:], items_per_section=512)
    users = np.arange(N_USERS)
    np.testing.assert_array_equal(other.score_catalogue(users), packed.score_catalogue(users))


def test_counts_of_more_than_eight_bits() -> None:
    model = network(SHAPES[5])
    activation, linear = model.mlp[0], model.mlp[1]
    assert isinstance(activation, BinaryBatchNormReLU)
    assert isinstance(linear, BinaryLinear)
    with torch.no_grad():
        activation.bias.copy_(torch.tensor([100.0, 100, 100, 100, 0]).repeat(104))  # most bits are always set
        linear.weight[:, :258], linear.weight[:, 258:] = 1, -1
        linear.weight[0, :257] = -1
    users, items = np.arange(0, N_USERS, 5), candidates(14, 300)
    packed = packed_network(model)
    _, bits = packed.score_with_bits(users, items)
    assert bits[..., :258].sum(axis=-1).min() > 200
    found = verify(packed, model, users, items)
    assert found.max_logit_difference < 1e-4
    np.testing.assert_allclose(packed(users, items), scorer(model)(users, items), atol=1e-4)


def test_nothing_to_score(packed: PackedNCF) -> None:
    assert packed.score_catalogue(np.empty(0, np.int64)).shape == (0, N_ITEMS)
    assert packed(np.empty(0, np.int64), np.empty((0, 7), np.int32)).shape == (0, 7)
    assert packed(np.arange(3), np.empty((3, 0), np.int32)).shape == (3, 0)


def test_numbers_out_of_range_are_refused(packed: PackedNCF) -> None:
    for users in ([-1], [N_USERS]):
        with pytest.raises(ValueError, match=r"^users must be between 0 and 69$"):
            packed.score_catalogue(np.array(users))
    for n, item in ((5, -1), (5, N_ITEMS), (500, N_ITEMS)):
        with pytest.raises(ValueError, match=r"^items must be between 0 and 1099$"):
            packed(np.arange(1), np.full((1, n), item, np.int32))
    with pytest.raises(ValueError, match="do not fit 2 users"):
        packed(np.arange(2), np.zeros((3, 5), np.int32))


def test_the_mode_of_the_network_stays(model: NCF) -> None:
    for training in (True, False):
        model.train(training)
        verify(packed_network(model), model, np.arange(2), candidates(2, 2))
        assert all(module.training == training for module in model.modules())
    model.eval()


def test_sums_on_a_threshold_decide_as_the_modules_do() -> None:
    """All numbers are small integers, so that many sums meet a threshold of a falling channel exactly."""
    model = network(NCFConfig(factors=2, layers=(4, 64, 8, 3)))
    activation = model.mlp[0]
    assert isinstance(activation, BinaryBatchNormReLU)
    assert activation.running_mean is not None
    assert activation.running_var is not None
    with torch.no_grad():
        for weight, largest in ((model.mlp_user.weight, 3), (model.mlp_item.weight, 3), (model.first.weight, 2)):
            weight.copy_(torch.randint(-largest, largest + 1, weight.shape))
        activation.weight.copy_(torch.tensor([1.0, -1.0]).repeat(32))
        activation.bias.copy_(torch.randint(-4, 5, (64,)))
        nn.init.zeros_(activation.running_mean)
        activation.running_var.fill_(1 - activation.eps)
        nn.init.constant_(activation.alpha, 2)
    packed = packed_network(model)
    users, items = np.arange(N_USERS), candidates(N_USERS, 200)
    is_met = packed.first_sums(users, items) == packed.first_thresholds.values
    assert packed.first_thresholds.flipped.tolist() == [False, True] * 32
    assert is_met[..., 1::2].sum() > 1000
    assert verify(packed, model, users, items).first_layer_differences == 0


def test_sums_next_to_a_threshold_decide_as_the_modules_do() -> None:
    """Each user meets items whose halves are the floats around what is missing to the thresholds."""
    model = network(NCFConfig(factors=2, layers=(64, 32, 8, 3)))
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(32).repeat(1, 2))  # halves are the features themselves
    thresholds = packed_network(model).first_thresholds.values
    finite = torch.from_numpy(np.where(np.isfinite(thresholds), thresholds, 0))
    items = np.arange(N_ITEMS)
    with torch.no_grad():
        missing = finite - model.mlp_user.weight[items % N_USERS]
        shift = torch.from_numpy(items // N_USERS % 7 - 3)[:, None]  # up to three floats below or above
        for step in (1, 2, 3):
            for side in (-1, 1):
                moved = torch.nextafter(missing, torch.tensor(side * torch.inf))
                missing = torch.where(shift * side >= step, moved, missing)
        model.mlp_item.weight.copy_(missing)
    own = np.stack([np.arange(user, user + 15 * N_USERS, N_USERS) for user in range(N_USERS)]).astype(np.int32)
    packed = packed_network(model)
    distances = np.abs(packed.first_sums(np.arange(N_USERS), own) - finite.numpy())
    assert np.median(distances) < 1e-6
    verify(packed, model, np.arange(N_USERS), own)


def test_made_up_inputs_reach_every_threshold() -> None:
    packed = packed_network(network(SHAPES[2]))
    (layer,) = packed.hidden
    signs = np.where(unpack_signs(layer.signs, 256), 1, -1)
    products = boundary_inputs(layer).astype(np.int64) @ signs.T
    n_reached = 0
    for channel, threshold in enumerate(layer.thresholds.values.tolist()):
        lowest, highest = -(signs[channel] < 0).sum(), (signs[channel] > 0).sum()
        for product in (threshold - 1, threshold, threshold + 1):
            if lowest <= product <= highest:
                assert product in products[:, channel]
                n_reached += 1
    assert n_reached > 100


def corrupted(packed: PackedNCF, name: str) -> PackedNCF:
    """The packed network with one wrong number in a layer."""
    if name == "mlp.0":
        values = packed.first_thresholds.values.copy()
        channel = int(np.isfinite(values).argmax())
        values[channel] = np.nextafter(values[channel], np.float32(np.inf))
        return replace(packed, first_thresholds=replace(packed.first_thresholds, values=values))
    if name == "mlp.3":
        gains = packed.units.gains.copy()
        gains[np.abs(gains * packed.last_weight[-len(gains) :]).argmax()] *= 1.01
        return replace(packed, units=replace(packed.units, gains=gains))
    (layer,) = packed.hidden
    values, signs = layer.thresholds.values.copy(), layer.signs.copy()
    channel = int((np.abs(values) < 3).argmax())
    if name == "threshold":
        values[channel] += 1
    else:
        signs[0, channel] ^= np.uint64(4)
    return replace(packed, hidden=(replace(layer, signs=signs, thresholds=replace(layer.thresholds, values=values)),))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp.0", r"^1 bits behind layer mlp\.0 differ from the simulated network"),
        ("threshold", r"^\d+ bits behind layer mlp\.1 differ .* the first in channel \d+ of input \d+; do not use"),
        ("sign", r"^\d+ bits behind layer mlp\.1 differ from the simulated network"),
        ("mlp.3", r"^packed and simulated logits differ by \S+ behind layer mlp\.3$"),
    ],
)
def test_verification_names_the_first_layer_that_differs(
    model: NCF, packed: PackedNCF, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        verify(corrupted(packed, name), model, np.arange(40), candidates(40, 50))


def test_verification_sees_a_catalogue_that_differs_from_its_pairs(model: NCF) -> None:
    packed = packed_network(model)
    packed._tiles.ranks[1] += 1
    with pytest.raises(DataError, match=r"^scores of the whole catalogue differ from those of pairs"):
        verify(packed, model, np.arange(3), candidates(3, 300))


def test_what_cannot_be_packed_is_refused() -> None:
    def refused(change: Any, message: str, config: NCFConfig = SHAPES[1]) -> None:
        model = network(config)
        change(model)
        with pytest.raises(ValueError, match=message) as raised:
            packed_network(model)
        assert "\n" not in str(raised.value)

    def put(name: str, layer: nn.Module) -> Any:
        return lambda model: model.set_submodule(name, layer)

    refused(lambda model: set_precision(model, "full"), r"^layer mlp\.0 computes in full precision")
    refused(put("mlp.2", nn.GELU()), r"^layer mlp\.2 is a GELU of 32 bits; before a 1-bit layer it must be 1-bit$")
    refused(put("mlp.3", nn.Linear(63, 127)), r"^layer mlp\.3 is a Linear, which has no packed form")
    refused(put("mlp.6", nn.GELU()), r"^layer mlp\.6 is a GELU; behind the last 1-bit layer only a ReLU")
    refused(put("first", nn.Bilinear(3, 3, 1)), r"^layer first is a Bilinear; only a Linear of 32 bits")
    refused(lambda model: nn.init.constant_(model.mlp[0].alpha, 0), r"^alpha of layer mlp\.0 is 0; it must be above 0")
    refused(
        lambda model: nn.init.constant_(model.mlp[4].bias, np.nan), r"^parameter mlp\.4\.bias holds values that are not"
    )
    with pytest.raises(DataError, match=r"^this gmf network holds nothing of 1 bit, so there is nothing to pack"):
        packed_network(NCF(N_USERS, N_ITEMS, NCFConfig(model="gmf"), seed=0))


def test_a_layer_that_keeps_32_bits_is_refused() -> None:
    model = NCF(N_USERS, N_ITEMS, SHAPES[1], seed=0)
    layers = plan_binarization(model).layers
    kept = {"mlp.2", "mlp.3"}
    convert(model, BinarizationPlan(tuple(replace(p, binarize=p.binarize and p.name not in kept) for p in layers)))
    set_precision(model, "low")
    with pytest.raises(DataError, match=r"^layer mlp\.2 is a BatchNormReLU of 32 bits"):
        packed_network(model)


def test_a_layer_too_wide_to_count_is_refused(monkeypatch: pytest.MonkeyPatch, model: NCF) -> None:
    monkeypatch.setattr(packing, "MAX_WIDTH", 64)
    with pytest.raises(DataError, match=r"^layer mlp\.1 has 65 inputs; at most 64 can be packed$"):
        packed_network(model)


@pytest.mark.parametrize("config", SHAPES[:4], ids=str)
def test_a_file_holds_everything(tmp_path: Path, config: NCFConfig) -> None:
    model = network(config)
    names = np.array([f"usér {number}\n\0" for number in range(N_USERS - 1)] + [""], object)
    packed = packed_network(model, user_ids=names, provenance={"run": "näme", "seed": 3})
    save_packed(packed, tmp_path / "a")
    save_packed(packed, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = load_packed(tmp_path / "a")
    assert (found.n_users, found.n_items, found.protocol) == (N_USERS, N_ITEMS, packed.protocol)
    assert found.provenance == {"run": "näme", "seed": 3}
    assert found.user_ids.tolist() == names.tolist()
    assert found.item_ids.dtype == np.int64
    assert found.item_ids.tolist() == packed.item_ids.tolist()
    users = np.arange(0, N_USERS, 9)
    np.testing.assert_array_equal(found.score_catalogue(users), packed.score_catalogue(users))
    verify(found, model, users, candidates(len(users), 20))


def test_files_are_not_overwritten(tmp_path: Path, packed: PackedNCF) -> None:
    save_packed(packed, tmp_path / "a")
    with pytest.raises(DataError, match="already exists"):
        save_packed(packed, tmp_path / "a")


def test_damaged_files_are_refused(tmp_path: Path, packed: PackedNCF) -> None:
    path = tmp_path / "a"
    save_packed(packed, path)
    content = path.read_bytes()
    middle = len(content) // 2

    def refused(changed: bytes, message: str) -> None:
        path.write_bytes(changed)
        with pytest.raises(DataError, match=message) as raised:
            load_packed(path)
        assert "\n" not in str(raised.value)

    refused(content[:-1], "was changed after it was written")
    refused(content[:100], "is no tensor file of ppt-ncf, or a damaged one")
    refused(b"", "is no tensor file of ppt-ncf, or a damaged one")
    refused(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "was changed after it was written")


def test_other_files_and_versions_are_refused(tmp_path: Path, model: NCF, packed: PackedNCF) -> None:
    save_tensors(tmp_path / "model", model.state_dict(), {"precision": "low"})
    with pytest.raises(DataError, match=r"model holds no packed network; make one with `ppt-ncf pack RUN --out FILE`$"):
        load_packed(tmp_path / "model")
    save_packed(packed, tmp_path / "a")
    tensors, metadata = load_tensors(tmp_path / "a")
    save_tensors(tmp_path / "b", tensors, metadata | {"packed_version": 3})
    with pytest.raises(DataError, match="b is a packed network of version 3 and this version of ppt-ncf reads 2; pack"):
        load_packed(tmp_path / "b")
    with pytest.raises(DataError, match="does not exist"):
        load_packed(tmp_path / "nothing")


def prepared() -> PreparedData:
    rng = np.random.default_rng(0)
    is_taken = rng.random((N_USERS, 90)) < 0.2
    histories = [np.flatnonzero(row) for row in is_taken]
    users = np.repeat(np.arange(N_USERS), [len(history) - 1 for history in histories])
    items = np.concatenate([history[1:] for history in histories])
    negatives = [rng.choice(np.flatnonzero(~row), 40, replace=False) for row in is_taken]
    return PreparedData(
        train=Interactions.from_pairs(users, items, n_users=N_USERS, n_items=90),
        test_items=np.array([history[0] for history in histories], np.int32),
        test_negatives=np.sort(np.stack(negatives), axis=1).astype(np.int32),
        user_ids=np.arange(N_USERS) + 5,
        item_ids=np.array([f"item {number}" for number in range(90)], object),
        protocol="strict",
        manifest={},
    )


def test_a_trained_network_ranks_and_recommends_as_before(tmp_path: Path) -> None:
    data = prepared()
    config = NCFTrainingConfig(epochs=3, batch_size=64, learning_rate=0.01)
    list(fit_steps(data, tmp_path / "run", NCFConfig(factors=4, layers=(16, 32, 64, 8)), config))
    model = load_model(Run.open(tmp_path / "run"))
    packed = pack(model, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)
    items = np.concatenate([data.test_items[:, None], data.test_negatives], axis=1)
    found = verify(packed, model, np.arange(N_USERS), items)
    assert (found.first_layer_differences, found.changed_ranks) == (0, 0)
    ours, theirs = rank_test_items(packed, data), rank_test_items(scorer(model), data)
    np.testing.assert_array_equal(ours.pessimistic, theirs.pessimistic)
    assert 0 < ours.hit_ratio(10) < 1
    lists, expected = (recommend(score, data, k=7) for score in (packed, scorer(model)))
    assert lists.item_ids.tolist() == expected.item_ids.tolist()
    np.testing.assert_allclose(lists.scores, expected.scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_other_processors_compute_the_same_bits(tmp_path: Path, packed: PackedNCF, cpu: str) -> None:
    """Compiled for a processor without AVX-512; takes a minute, since nothing is compiled yet."""
    save_packed(packed, tmp_path / "a")
    code = """if True:
        import sys
        from pathlib import Path
        import numpy as np
        from ncf_ppt.packed.file import load_packed
        packed = load_packed(Path(sys.argv[1]))
        np.save(sys.argv[2], packed.score_catalogue(np.arange(packed.n_users)), allow_pickle=False)
    """
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "scores.npy")]
    subprocess.run(command, env=environment, check=True)
    found = np.load(tmp_path / "scores.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, packed.score_catalogue(np.arange(N_USERS)))
