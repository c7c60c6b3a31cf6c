"""Measuring what targets cost on this machine."""

from ese_deploy.bench.measure import Effort, measure

__all__ = ["Effort", "measure"]
