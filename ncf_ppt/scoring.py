"""Scores of (user, item) pairs by a trained network."""

import numpy as np
import torch
from numpy.typing import NDArray

from ncf_ppt.model import NCF
from ncf_ppt.ranking import Scorer

_BLOCK = 1 << 14  # pairs at a time: their activations stay in the second-level cache


def scorer(model: NCF) -> Scorer:
    """Wrap a model as a function of arrays: users (n,) and candidates (n, m) to float32 logits (n, m).

    The model is put into evaluation mode for each call and back into the mode it was in.
    """
    device = model.last.weight.device

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        n_candidates = candidates.shape[1]
        all_users = torch.from_numpy(np.repeat(users.astype(np.int32), n_candidates)).to(device)
        all_items = torch.from_numpy(np.ascontiguousarray(candidates).reshape(-1)).to(device)
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                blocks = zip(torch.split(all_users, _BLOCK), torch.split(all_items, _BLOCK), strict=True)
                logits = torch.cat([model(block_users, block_items).float() for block_users, block_items in blocks])
        finally:
            model.train(was_training)
        scores: NDArray[np.float32] = logits.cpu().numpy().reshape(len(users), n_candidates)
        return scores

    return score
