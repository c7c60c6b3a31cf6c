"""Pictures of what was measured."""

from ese_deploy.report.plots import Front, heat_map, pareto_plot

__all__ = ["Front", "heat_map", "pareto_plot"]
