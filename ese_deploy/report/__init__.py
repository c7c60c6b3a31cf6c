"""Reports and plots of measurements."""

from ese_deploy.report.api import report
from ese_deploy.report.plots import Front, heat_map, pareto_plot

__all__ = ["Front", "heat_map", "pareto_plot", "report"]
