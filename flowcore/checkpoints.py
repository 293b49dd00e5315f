"""Helpers for ``Config.checkpoint_files``."""

from flowcore.kernel.checkpoint import get_all_checkpoints, get_last_checkpoint

__all__ = ["get_all_checkpoints", "get_last_checkpoint"]
