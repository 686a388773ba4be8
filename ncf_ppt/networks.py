"""The networks by the name of their config's ``model``."""

from typing import Any

from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ppt_core.distributed import World

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


def ready_to_rank(network: Network, world: World) -> None:
    """Make the network the same bit for bit in all processes that train it, which then share its evaluation.

    Rows that lag behind are brought up to date, and running statistics become those of the first process, which are
    what is saved.
    """
    for table in network.tables():
        table.catch_up()
    world.copy_from_first(buffer for buffer in network.buffers() if buffer.is_floating_point())
