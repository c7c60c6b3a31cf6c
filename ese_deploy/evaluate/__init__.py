"""What a target is worth: the only place where quality is computed."""

from ese_deploy.evaluate.agreement import AGREEMENT, agreement

__all__ = ["AGREEMENT", "agreement"]
