"""The networks by the name of their config's ``model``."""

from typing import Any

from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig

Network = NCF | TwoTower
NetworkConfig = NCFConfig | TwoTowerConfig


def network_config(values: dict[str, Any]) -> NetworkConfig:
    """Read a config that its ``to_dict`` returned."""
    return TwoTowerConfig.from_dict(values) if values["model"] == "two-tower" else NCFConfig.from_dict(values)


def build_network(n_users: int, n_items: int, config: NetworkConfig, *, seed: int) -> Network:
    """Build the network of a config with its initial weights."""
    if isinstance(config, TwoTowerConfig):
        return TwoTower(n_users, n_items, config, seed=seed)
    return NCF(n_users, n_items, config, seed=seed)
