"""Streams of batches: where batches begin and end, and worker processes that decode them ahead."""

import multiprocessing
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset

from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.schedule import batches_per_epoch
from vision_ppt.sampling import ImageBatch, ImageSampler


class Block(NamedTuple):
    """Samples ``start .. stop - 1`` of an epoch: a batch before it is drawn."""

    epoch: int
    start: int
    stop: int


def training_blocks(n_samples: int, batch_size: int, *, start: int) -> Iterator[Block]:
    """Yield the block of iteration ``start`` and of all later ones, epoch after epoch without end.

    Raises ValueError if there are less than two samples or samples in a batch.
    """
    for name, value in (("n_samples", n_samples), ("batch_size", batch_size)):
        if value < 2:
            raise ValueError(f"{name} is {value}; it must be at least 2")
    n_batches = batches_per_epoch(n_samples, batch_size)
    iteration = start
    while True:
        epoch, batch = divmod(iteration, n_batches)
        stop = (batch + 1) * batch_size if batch + 1 < n_batches else n_samples
        yield Block(epoch, batch * batch_size, stop)
        iteration += 1


def training_batches(
    sampler: ImageSampler,
    batch_size: int,
    *,
    start: int = 0,
    workers: int = 0,
    world: World = World(),  # noqa: B008 (frozen)
) -> Iterator[ImageBatch]:
    """Yield the batch of iteration ``start`` and of all later ones, without end; see `draw_blocks`.

    Of several processes each draws its share of every batch of ``batch_size``.
    """
    blocks = training_blocks(sampler.samples_per_epoch, batch_size, start=start)
    return draw_blocks(sampler, (_share(block, world) for block in blocks), workers=workers)


def _share(block: Block, world: World) -> Block:
    rows = world.share(block.stop - block.start)
    return Block(block.epoch, block.start + rows.start, block.start + rows.stop)


def evaluation_batches(sampler: ImageSampler, batch_size: int, *, workers: int = 0) -> Iterator[ImageBatch]:
    """Yield every sample once, in order, in batches of ``batch_size`` with a smaller last one."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    n_samples = sampler.samples_per_epoch
    starts = range(0, n_samples, batch_size)
    return draw_blocks(
        sampler, (Block(0, start, min(start + batch_size, n_samples)) for start in starts), workers=workers
    )


def draw_blocks(sampler: ImageSampler, blocks: Iterable[Block], *, workers: int = 0) -> Iterator[ImageBatch]:
    """Yield the batch of each block, in order.

    Args:
        sampler: draws them.
        blocks: any number, or without end.
        workers: processes that draw whole batches ahead, two each. 0 draws in this process, when asked. The
            batches are the same for any number. A process that may have none of its own, as a worker of a Dask
            cluster, draws them itself.

    Raises `DataError` for a file that cannot be read.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 or above")
    if workers == 0 or multiprocessing.current_process().daemon:
        for block in blocks:
            yield sampler.draw(*block)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: so it was asked for
        loader: DataLoader[ImageBatch | DataError] = DataLoader(
            _Blocks(sampler), batch_size=None, sampler=blocks, num_workers=workers
        )
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Blocks(Dataset["ImageBatch | DataError"]):
    def __init__(self, sampler: ImageSampler) -> None:
        self._sampler = sampler

    def __getitem__(self, block: Block) -> ImageBatch | DataError:
        try:
            return self._sampler.draw(*block)
        except DataError as error:  # raised in a worker it would reach the user with a traceback of many lines
            return error
