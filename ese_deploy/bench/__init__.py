"""Measuring what targets cost on this machine."""

from ese_deploy.bench.api import bench
from ese_deploy.bench.measure import Effort, measure
from ese_deploy.bench.results import Results, read_results

__all__ = ["Effort", "Results", "bench", "measure", "read_results"]
