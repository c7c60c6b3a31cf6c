"""Checkpoints and their backbones: files, exits, attention masks and pooling."""

from typing import TYPE_CHECKING

from ese_deploy.backbones.source import locate
from ese_deploy.system.lazy import lazy_names

if TYPE_CHECKING:
    from ese_deploy.backbones.architectures import ARCHITECTURES, Architecture, find_architecture
    from ese_deploy.backbones.checkpoint import Checkpoint, load_backbone, read_checkpoint
    from ese_deploy.backbones.exits import Exits, exit_states
    from ese_deploy.backbones.pooling import POOLINGS, pool
else:
    # A path that does not exist is found out by ``locate`` before torch is imported.
    __getattr__ = lazy_names(
        __name__,
        {
            "ese_deploy.backbones.architectures": ["ARCHITECTURES", "Architecture", "find_architecture"],
            "ese_deploy.backbones.checkpoint": ["Checkpoint", "load_backbone", "read_checkpoint"],
            "ese_deploy.backbones.exits": ["Exits", "exit_states"],
            "ese_deploy.backbones.pooling": ["POOLINGS", "pool"],
        },
    )

__all__ = [
    "ARCHITECTURES",
    "POOLINGS",
    "Architecture",
    "Checkpoint",
    "Exits",
    "exit_states",
    "find_architecture",
    "load_backbone",
    "locate",
    "pool",
    "read_checkpoint",
]
