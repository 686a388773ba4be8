"""A few seconds of known answers: whether the kernels compute on this machine what they should."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from data_prep.ratings.interactions import Interactions
from data_prep.ratings.sampling import Sampler
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.verification import verify
from ncf_ppt.row_adam import RowAdam, RowEmbedding
from ppt_core.layers import set_precision
from ppt_core.plan import convert

SAMPLES_SHA256 = "e603315ab4414feca7d3281a290356939aa2a8823505e65d897998e68013d662"
_N_USERS, _N_ITEMS = 50, 60
_STEPS = 40
_TOLERANCE = 1e-4  # of the way that they went


@dataclass(frozen=True, kw_only=True)
class Check:
    """One known answer: whether it came out, what was compared or went wrong, and the seconds it took."""

    name: str
    ok: bool
    detail: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)


def run_checks() -> list[Check]:
    """Check the sampler, the optimizer of rows and the packed network; with compiled kernels it takes under 5 s.

    Nothing that goes wrong is raised: it is the detail of a check that failed.
    """
    return [_run(name, check) for name, check in CHECKS.items()]


def _run(name: str, check: Callable[[], str]) -> Check:
    start = time.perf_counter()
    try:
        ok, detail = True, check()
    except Exception as error:
        ok, detail = False, f"{type(error).__name__}: {error}"
    return Check(name=name, ok=ok, detail=detail, seconds=time.perf_counter() - start)


def sampled_histories() -> list[list[int]]:
    """The items of each user that the sampler is checked on, by a rule."""
    return [sorted({(7 * user + 3 * number) % _N_ITEMS for number in range(user % 9 + 2)}) for user in range(_N_USERS)]


def _sampler() -> str:
    histories = sampled_histories()
    users = np.repeat(np.arange(_N_USERS), [len(history) for history in histories])
    interactions = Interactions.from_pairs(users, np.concatenate(histories), n_users=_N_USERS, n_items=_N_ITEMS)
    sampler = Sampler(interactions=interactions, n_negatives=4, seed=3)
    samples = sampler.draw(1, 0, sampler.samples_per_epoch)
    digest = hashlib.sha256()
    for array in samples:
        digest.update(array.astype("<i8").tobytes())
    if digest.hexdigest() != SAMPLES_SHA256:
        raise ArithmeticError(f"the samples have SHA-256 {digest.hexdigest()}, not {SAMPLES_SHA256}")
    return f"{len(samples[0]):,} samples are the known ones"


def _row_adam() -> str:
    generator = torch.Generator().manual_seed(0)
    rows, dense = RowEmbedding(30, 8), nn.Embedding(30, 8)
    dense.load_state_dict(rows.state_dict())
    start = dense.weight.detach().clone()
    optimizers = RowAdam([rows], [], lr=1e-3), torch.optim.Adam(dense.parameters(), lr=1e-3)
    for number in range(_STEPS):
        batch = torch.randint(30 if number == 0 else 1 + number % 10, (20,), generator=generator)
        slope = torch.randn(20, 8, generator=generator)
        for table, optimizer in zip((rows, dense), optimizers, strict=True):
            optimizer.zero_grad()
            (table.train()(batch) * slope).sum().backward()
            optimizer.step()
    optimizers[0].catch_up()
    with torch.no_grad():
        difference = ((rows.weight - dense.weight).norm() / (dense.weight - start).norm()).item()
    if not difference < _TOLERANCE:
        raise ArithmeticError(f"after {_STEPS} steps the rows differ from dense Adam's by {difference:.1e}")
    return f"{_STEPS} steps equal dense Adam's to {difference:.0e}"


def _packed_network() -> str:
    generator = torch.Generator().manual_seed(0)
    model = NCF(70, 300, NCFConfig(factors=8, layers=(16, 65, 64, 5)), seed=0)
    convert(model)
    set_precision(model, "low")
    with torch.no_grad():
        for _ in range(20):  # gives BatchNorm statistics, so that thresholds differ
            users = torch.randint(70, (256,), generator=generator)
            model.train()(users, torch.randint(300, (256,), generator=generator))
    packed = pack(model.eval(), user_ids=np.arange(70), item_ids=np.arange(300), protocol="self-test")
    candidates = np.stack([np.arange(200, dtype=np.int32) + user for user in range(70)])
    found = verify(packed, model, np.arange(70), candidates)
    return f"{found.compared_bits + found.boundary_bits:,} bits equal the simulated ones"


CHECKS: dict[str, Callable[[], str]] = {
    "sampler": _sampler,
    "row-adam": _row_adam,
    "packed network": _packed_network,
}
