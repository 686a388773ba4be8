"""Slow, obvious versions of what the packages compute fast; tests compare the two."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def binarize_activation(x: Floats, alpha: float, grad: Floats) -> tuple[Floats, Floats, float]:
    """Return (output, gradient of x, gradient of alpha) of one-bit PACT, an element at a time.

    PACT's forward is clip(x, 0, alpha), whose derivative by x is 1 between the two bounds and whose derivative by
    alpha is 1 above the upper one; quantizing to one bit rounds it to the nearer of 0 and alpha, a tie to 0.
    """
    output, grad_x, grad_alpha = np.zeros_like(x), np.zeros_like(x), []
    for index in np.ndindex(x.shape):
        clipped = min(max(float(x[index]), 0.0), alpha)
        # max(nan, 0.0) is nan and min(nan, alpha) is nan: it is nearer to nothing, and stays 0.
        output[index] = alpha if alpha - clipped < clipped - 0.0 else 0.0
        if not (x[index] < 0 or x[index] > alpha or math.isnan(x[index])):
            grad_x[index] = grad[index]
        if float(x[index]) - alpha >= 0:
            grad_alpha.append(float(grad[index]))
    return output, grad_x, math.fsum(grad_alpha)


def binarize_weight(weight: Floats, grad: Floats) -> tuple[Floats, Floats]:
    """Return (output, gradient) of the sign that is never 0 and of clip(weight, -1, 1), its stand-in backwards."""
    output, grad_weight = np.zeros_like(weight), np.zeros_like(weight)
    for index in np.ndindex(weight.shape):
        output[index] = 1 if weight[index] > 0 else -1
        grad_weight[index] = grad[index] if np.clip(weight[index], -1, 1) == weight[index] else 0
    return output, grad_weight


def binary_linear(bits: NDArray[np.int64], weight: Floats) -> NDArray[np.int64]:
    """Integer product of ``bits`` (rows, inputs) in {0, 1} with the signs of ``weight`` (outputs, inputs)."""
    product = np.zeros((len(bits), len(weight)), np.int64)
    for row, output in np.ndindex(product.shape):
        for bit, w in zip(bits[row], weight[output], strict=True):
            product[row, output] += int(bit) * (1 if w > 0 else -1)
    return product


def binary_conv2d(bits: NDArray[np.int64], weight: Floats, *, stride: int, padding: int) -> NDArray[np.int64]:
    """Integer convolution of ``bits`` (batch, inputs, height, width) with the signs of ``weight``, bit 0 around it."""
    size = weight.shape[2]
    padded = np.pad(bits, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    height, width = ((n - size) // stride + 1 for n in padded.shape[2:])
    product = np.zeros((len(bits), len(weight), height, width), np.int64)
    for row, output, y, x in np.ndindex(product.shape):
        patch = padded[row, :, y * stride : y * stride + size, x * stride : x * stride + size]
        product[row, output, y, x] = binary_linear(patch.reshape(1, -1), weight[[output]].reshape(1, -1)).item()
    return product


def item_knn_scores(histories: list[list[int]], n_items: int, idf_power: float) -> Floats:
    """Sums of the weighted cosines of an item and each item of a user, (users, items); all items are neighbours."""
    weights = np.array([math.log((n_items + 1) / max(len(history), 1)) ** idf_power for history in histories])
    columns = np.array([[item in history for history in histories] for item in range(n_items)]) * weights
    scores = np.zeros((len(histories), n_items))
    for user, item in np.ndindex(scores.shape):
        for other in histories[user]:
            norm = np.linalg.norm(columns[item]) * np.linalg.norm(columns[other])
            scores[user, item] += columns[item] @ columns[other] / norm if norm else 0.0
    return scores
