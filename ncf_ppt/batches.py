"""Batches of users, items and labels, without end."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from data_prep.ratings.sampling import Sampler
from ncf_ppt.device_sampler import DeviceSampler
from ncf_ppt.recent import RecentItems
from ppt_core.distributed import World
from ppt_core.schedule import batches_per_epoch

_SAMPLES_PER_DRAW = 1 << 16  # a call of the sampler has a price of its own
_SAMPLES_PER_DEVICE_DRAW = 1 << 22  # some 300 operations, each of which a GPU does in no less than 5 us


def training_batches(
    sampler: Sampler,
    batch_size: int,
    *,
    start: int,
    recent: RecentItems | None = None,
    world: World = World(),  # noqa: B008 (frozen)
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (users, items, labels) of iteration ``start`` and all later ones, without end.

    With ``recent`` they are (users, items, recent items, labels): of a negative those of the positive that it was drawn
    for. Of several processes each gets its share of every batch of ``batch_size``, on its device.

    Each is one-dimensional, recent items (n, n_recent). Of a sampler that keeps groups together a batch has whole ones:
    users are (n_groups, 1), recent items (n_groups, 1, n_recent), and items and labels (n_groups, 1 + n_negatives).

    Raises ValueError for groups that ``batch_size`` is no multiple of.
    """
    if batch_size % sampler.n_together:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of a group of {sampler.n_together} samples"
        )
    rows_per_batch = batch_size // sampler.n_together
    n_batches = batches_per_epoch(sampler.samples_per_epoch, batch_size)
    draw, samples_per_draw = _drawing(sampler, recent, world.device)
    batches_per_draw = max(1, samples_per_draw // batch_size)
    iteration = start
    while True:
        epoch, batch = divmod(iteration, n_batches)
        last = min(batch + batches_per_draw, n_batches)
        stop = last * batch_size if last < n_batches else sampler.samples_per_epoch
        drawn = draw(epoch, batch * batch_size, stop)  # in each process all of it: it takes less than a step
        for number in range(last - batch):
            end = None if batch + number + 1 == n_batches else (number + 1) * rows_per_batch
            rows = slice(number * rows_per_batch, end)
            own = world.share(len(drawn[-1][rows]))
            yield tuple(tensor[rows][own] for tensor in drawn)
        iteration += last - batch


def _drawing(
    sampler: Sampler, recent: RecentItems | None, device: str
) -> tuple[Callable[[int, int, int], tuple[Tensor, ...]], int]:
    """What draws samples as tensors on a device, and how many it should draw at a time."""
    on_device = DeviceSampler(sampler, device) if _draws_on(device) else None

    def draw(epoch: int, start: int, stop: int) -> tuple[Tensor, ...]:
        if on_device is not None:
            users, items, labels, positives = on_device.draw_with_positives(epoch, start, stop)
        elif recent is None:
            users, items, labels = map(torch.from_numpy, sampler.draw(epoch, start, stop))
        else:
            samples, places = sampler.draw_with_positives(epoch, start, stop)
            users, items, labels, positives = map(torch.from_numpy, (*samples, places))
        if not sampler.grouped:
            return (users, items, labels) if recent is None else (users, items, recent(users, positives), labels)
        users, items, labels = (tensor.view(-1, sampler.n_together) for tensor in (users, items, labels))
        users = users[:, :1].contiguous()
        if recent is None:
            return users, items, labels
        return users, items, recent(users[:, 0], positives[:: sampler.n_together]).unsqueeze(1), labels

    return draw, _SAMPLES_PER_DRAW if on_device is None else _SAMPLES_PER_DEVICE_DRAW


def _draws_on(device: str) -> bool:
    """Whether samples are drawn by the device itself, which would otherwise wait for them."""
    return torch.device(device).type != "cpu"
