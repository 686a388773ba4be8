"""A network as it serves: what it has read of a user's history is part of the user's row."""

from dataclasses import replace

import torch
from torch import Tensor

from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.networks import Network
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.two_tower import TwoTower
from ppt_core.pair_linear import PairLinear


@torch.no_grad()
def served(model: Network) -> NCF:
    """Return a network of users and items alone with the logits of ``model``, up to rounding.

    A user's last train items are the same for every item that is scored, so their mean becomes part of the user's
    rows: GMF vectors are ``[gmf_user; mean; 1]`` and ``[gmf_item; next_item; item_bias]``, and the first layer of the
    MLP reads ``[mlp_user; mean]``. What scores pairs, packs, exports and inspects needs to know nothing of histories.

    A two-tower network becomes a GMF of its users' vectors and 1, and of its items' vectors and biases.

    A network without recent items is returned itself. Of another one the hidden layers are shared and all else is a
    copy, on the same device and in the same mode.
    """
    if isinstance(model, TwoTower):
        return _of_vectors(model)
    config = model.config
    if not config.n_recent:
        return model
    means = model.recent.means(model.last_items)
    one = means.new_ones(len(means), 1)
    n_factors = 2 * config.factors + 1
    twin = NCF(1, 1, replace(config, n_recent=0, factors=n_factors), seed=0)
    weights = [model.last.weight]
    if config.model != "mlp":
        twin.gmf_user = _table(torch.cat([model.gmf_user.values(), means, one], 1))
        twin.gmf_item = _table(
            torch.cat([model.gmf_item.values(), model.next_item.values(), model.item_bias.values()], 1)
        )
        own = model.last.weight
        weights = [own[:, : config.factors], own.new_ones(1, config.factors + 1), own[:, config.factors :]]
    if config.model != "gmf":
        twin.mlp_user = _table(torch.cat([model.mlp_user.values(), means], 1))
        twin.mlp_item = _table(model.mlp_item.values())
        twin.first, twin.mlp = _copy(model.first), model.mlp
    twin.last.weight = torch.nn.Parameter(torch.cat(weights, 1))
    twin.last.bias = torch.nn.Parameter(model.last.bias.clone())
    return twin.train(model.training)


def _of_vectors(model: TwoTower) -> NCF:
    device = model.item.weight.device
    users = torch.from_numpy(model.user_vectors(model.last_items.cpu().numpy())).to(device)
    items = torch.from_numpy(model.item_vectors()).to(device)
    twin = NCF(1, 1, NCFConfig(model="gmf", factors=users.shape[1]), seed=0)
    twin.gmf_user, twin.gmf_item = _table(users), _table(items)
    twin.last.weight.fill_(1)
    twin.last.bias.zero_()
    return twin.to(device).train(model.training)


def _table(rows: Tensor) -> RowEmbedding:
    return RowEmbedding(rows.shape[0], rows.shape[1], _weight=rows)


def _copy(layer: PairLinear) -> PairLinear:
    y_features = layer.in_features - layer.x_features
    copy = PairLinear(layer.x_features, y_features, layer.out_features, bias=layer.bias is not None)
    copy.load_state_dict(layer.state_dict())
    return copy.to(layer.weight.device)
