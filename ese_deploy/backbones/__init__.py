"""What is true of a checkpoint: its files, exits and pooling; export, training and evaluation take it from here."""

from ese_deploy.backbones.architectures import ARCHITECTURES, Architecture, find_architecture
from ese_deploy.backbones.checkpoint import Checkpoint, load_backbone, read_checkpoint
from ese_deploy.backbones.exits import Exits, exit_states
from ese_deploy.backbones.pooling import POOLINGS, pool

__all__ = [
    "ARCHITECTURES",
    "POOLINGS",
    "Architecture",
    "Checkpoint",
    "Exits",
    "exit_states",
    "find_architecture",
    "load_backbone",
    "pool",
    "read_checkpoint",
]
