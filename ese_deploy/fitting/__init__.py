"""Fitting of what brings all exits into the full model's embedding space: projections and a table of token vectors.

Export fits on a checkpoint, training on the model that it trains. Both give a :class:`StateSource`.
"""

from ese_deploy.fitting.exits import fit_exits
from ese_deploy.fitting.source import StateBatch, StateSource, TokenCounts
from ese_deploy.fitting.table import TeacherTexts, fit_table

__all__ = ["StateBatch", "StateSource", "TeacherTexts", "TokenCounts", "fit_exits", "fit_table"]
