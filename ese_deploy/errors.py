"""The exceptions that ese-deploy raises on purpose.

Every message is one line that says what was got, what is allowed and what to do. Messages name arguments of functions
in backticks, such as `max_latency`; the command line shows them as options, such as --max-latency. It prints the
message alone and exits with the class's ``exit_code``.
"""

__all__ = ["BundleError", "CheckFailedError", "EngineError", "EseDeployError", "InputError", "TrainingError"]


class EseDeployError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class InputError(EseDeployError, ValueError):
    """An argument, a checkpoint or an input file is not what it must be."""


class BundleError(EseDeployError):
    """A bundle is missing, damaged, hostile or of a format this version cannot read."""


class EngineError(EseDeployError):
    """An inference engine is missing, did not load, or refused a graph."""


class TrainingError(EseDeployError):
    """Training cannot go on; checkpoints saved before are good."""

    exit_code = 1


class CheckFailedError(EseDeployError):
    """A measured figure is outside its tolerance.

    Attributes:
        failures: one line for each target that failed.
    """

    exit_code = 1

    def __init__(self, message: str, failures: list[str]) -> None:
        super().__init__(message)
        self.failures = failures
