"""The share of images that a network gives their class."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from data_prep.images.normalization import Normalization
from ppt_core.errors import DataError
from vision_ppt.sampling import ImageBatch


def measure_accuracy(
    model: nn.Module, batches: Iterable[ImageBatch], normalization: Normalization, *, device: str = "cpu"
) -> dict[str, Any]:
    """Return ``accuracy``, the share of images whose own class has the highest logit, and their number ``n_images``.

    Top-1. A class that ties with another is not recognized, so a network that says the same of every class gets 0.

    Args:
        model: maps normalized images to logits; left in evaluation mode.
        batches: at least one image in all.
        normalization: what the model was trained with.
        device: where the model is.

    Raises `DataError` if a logit is NaN: training has diverged.
    """
    model.eval()
    recognized = torch.zeros((), dtype=torch.int64, device=device)
    n_images = 0
    with torch.inference_mode():
        for images, labels in batches:
            logits = model(normalization(images.to(device))).float()
            if logits.isnan().any():
                raise DataError("the network's logits are not numbers; training has diverged: lower the learning rate")
            own = logits.gather(1, labels.to(device)[:, None])
            recognized += ((logits >= own).sum(1) == 1).sum()
            n_images += len(labels)
    return {"accuracy": recognized.item() / n_images, "n_images": n_images}
