"""The steps of `ncf_ppt.row_adam.RowAdam` in PyTorch's operations, for tables that are not on a CPU.

The kernels of `ncf_ppt._kernels` by the same names do the same on a CPU, where these would take several times as long.
Nothing here depends on the values of a tensor, so a GPU is never waited for. To find the distinct rows would mean to
wait: a row that occurs several times is computed as often, to the same bits. Results are the same bit for bit every
time, since a GPU adds the gradients of a row in sorted order, not by atomic additions.
"""

import torch
from torch import Tensor


def catch_up_rows(
    rows: Tensor,
    weight: Tensor,
    means: Tensor,
    squares: Tensor,
    last_steps: Tensor,
    step: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    moments: Tensor,
) -> None:
    """Apply to ``rows`` the Adam steps ``last_step + 1 .. step``, whose gradients were 0, at once.

    Args:
        rows: integers (n,), repetitions allowed.
        weight: float32 (n_rows, size), changed in place as the next three are.
        means: first moments, like ``weight``.
        squares: second moments, like ``weight``.
        last_steps: int64 (n_rows,), the last step that each row has seen.
        step: to be reached.
        learning_rate: of all these steps.
        betas: decay rates.
        eps: of Adam.
        moments: float64 (4, length), see `ncf_ppt.row_adam.infinite_moments`.
    """
    rows = rows.long()
    first = last_steps[rows]
    n_steps = (step - first).double()
    is_behind = first < step
    beta1, beta2 = betas
    powers = torch.arange(4, dtype=torch.float64, device=weight.device)[:, None]
    ratios = beta1 / beta2 ** (powers / 2)
    last = moments.shape[1] - 1
    sums = moments[:, first.clamp(max=last)] - ratios**n_steps * moments[:, min(step, last), None]
    total, mean, second, third = sums[0], *(sums[1:] / sums[0])
    # Gauss's two nodes; one if the steps are too alike to tell apart.
    variance = second - mean * mean
    is_one = variance < 1e-9 * mean * mean
    skew = (third - 3 * mean * second + 2 * mean**3) / variance
    spread = (skew * skew / 4 + variance).sqrt()
    x1 = torch.where(is_one, mean, mean + skew / 2 - spread)
    x2 = torch.where(is_one, mean, mean + skew / 2 + spread)

    def column(values: Tensor) -> Tensor:
        return values.float()[:, None]

    old_means, old_squares = means[rows], squares[rows]
    deviations = old_squares.sqrt()
    numerators = column(learning_rate * total * mean) * deviations + column(learning_rate * total * eps * x1 * x2)
    denominators = (deviations + column(eps * x1)) * (deviations + column(eps * x2))
    change = torch.where(is_behind[:, None], old_means * numerators / denominators, 0.0)  # 0 / 0 where there is no step
    weight[rows] = weight[rows] - change
    for old, moment, beta in ((old_means, means, beta1), (old_squares, squares, beta2)):
        decay = beta**n_steps
        moment[rows] = old * column(torch.where(decay > 1e-20, decay, 0.0))
    last_steps[rows] = step


def update_rows(
    indices: Tensor,
    grads: Tensor,
    weight: Tensor,
    means: Tensor,
    squares: Tensor,
    last_steps: Tensor,
    step: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Take Adam step number ``step`` (from 1) on the rows ``indices``, up to date with the step before.

    ``grads`` is float32 (n, size), the gradients at ``indices`` (n,); those of a repeated row add up. The others are
    as in `catch_up_rows`.
    """
    # Any position of a row can stand for it: of several that are written to one place, one wins.
    indices = indices.long()
    positions = torch.arange(len(indices), device=weight.device)
    place_of_row = torch.empty(len(weight), dtype=torch.int64, device=weight.device)
    place_of_row[indices] = positions
    places = place_of_row[indices]
    sums = torch.zeros_like(grads).index_put_((places,), grads, accumulate=True)
    grad = sums[places]
    beta1, beta2 = betas
    mean = beta1 * means[indices] + (1 - beta1) * grad
    square = beta2 * squares[indices] + (1 - beta2) * grad * grad
    change = learning_rate / (1 - beta1**step) * mean / (square.sqrt() / (1 - beta2**step) ** 0.5 + eps)
    weight[indices] = weight[indices] - change
    means[indices], squares[indices] = mean, square
    last_steps[indices] = step
