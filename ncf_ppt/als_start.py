"""Start NeuMF or GMF from the factors of ALS, so that its first scores rank as those of ALS do."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.model import NCF
from ncf_ppt.warm_start import ALSStart, balanced_factors

_SAMPLES = 200_000
_NEWTON_STEPS = 50


@torch.no_grad()
def start_from_als(model: NCF, data: PreparedData, sampler: Sampler, start: ALSStart, *, seed: int) -> None:
    """Put the factors of ALS into the GMF part of ``model``, and calibrate the last layer.

    The GMF tables become ALS's factors, users' and items' of equal root mean square length. The GMF half of the last
    layer becomes c and its bias b of ``label ~ sigmoid(c * <user, item> + b)``, fitted to the first 200,000 samples of
    ``sampler``; its MLP half becomes 0, so that the MLP starts to matter as it learns. The rows that recent items are
    read from become ALS's item factors, too; what they meet, ``next_item``, keeps its small random rows.

    The result is a function of the arguments, whatever the number of threads.
    """
    config = model.config
    factors = balanced_factors(start, data, config.factors, seed=seed)
    samples = sampler.draw(0, 0, min(_SAMPLES, sampler.samples_per_epoch))
    products = factors(samples.users.astype(np.int64), samples.items[:, np.newaxis])[:, 0]
    slope, bias = logistic_fit(products.astype(np.float64), samples.labels.astype(np.float64))
    users, items = torch.from_numpy(factors.user_vectors), torch.from_numpy(factors.item_vectors)
    model.gmf_user.weight.copy_(users)
    model.gmf_item.weight.copy_(items)
    model.last.weight.zero_()
    model.last.weight[0, : config.factors] = slope
    model.last.bias.fill_(bias)
    if config.n_recent:
        model.recent.weight.copy_(items)


def logistic_fit(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope and the bias of ``label ~ sigmoid(slope * score + bias)`` of least mean cross-entropy.

    Args:
        scores: (n,).
        labels: 0 or 1 (n,).

    Newton's method from slope 0 and the labels' log odds; a step that does not lessen the loss is halved, and it ends
    after 50 steps, or where the loss is flat, as it is where all labels or all scores are equal.
    """
    share = min(max(float(labels.mean()), 1e-6), 1 - 1e-6)
    found, least = np.array([0.0, math.log(share / (1 - share))]), math.inf
    step = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        logits = (found[0] + step[0]) * scores + found[1] + step[1]
        loss = float(np.mean(np.logaddexp(0, logits) - labels * logits))
        if not loss < least:
            step = step / 2
            if np.abs(step).max() < 1e-9:
                break
            continue
        found, least = found + step, loss
        chances = 1 / (1 + np.exp(-logits))
        errors, weights = chances - labels, chances * (1 - chances)
        slope, bias = float(np.mean(errors * scores)), float(np.mean(errors))
        a, b, c = (float(np.mean(weights * powers)) for powers in (scores * scores, scores, np.ones_like(scores)))
        determinant = a * c - b * b
        if not determinant > 1e-12 * a * c:
            break
        step = np.array([b * bias - c * slope, b * slope - a * bias]) / determinant
    return float(found[0]), float(found[1])
