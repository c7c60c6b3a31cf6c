"""What verification found."""

from dataclasses import dataclass

from ese_deploy.bundle.manifest import Parity, TargetEntry
from ese_deploy.bundle.reader import Bundle

__all__ = ["TargetCheck", "VerifyReport"]


@dataclass(frozen=True, repr=False)
class TargetCheck:
    """The checks of one target.

    Attributes:
        entry: the target.
        parity: figures for the manifest; ``passed`` is true if every check passed.
        batch_max_abs: largest difference of any component between batch sizes 1, 2, 7 and 32.
        padding_max_abs: largest difference that more padding makes.
        norm_max_abs: largest distance of a norm from 1.
        failures: a line for each check that failed.
    """

    entry: TargetEntry
    parity: Parity
    batch_max_abs: float
    padding_max_abs: float
    norm_max_abs: float
    failures: tuple[str, ...]

    def __repr__(self) -> str:
        result = f"{len(self.failures)} checks failed" if self.failures else "passed"
        return f"TargetCheck({self.entry.target}, {result})"


@dataclass(frozen=True, repr=False)
class VerifyReport:
    """The checks of a bundle on one engine.

    Attributes:
        bundle: the bundle, with the new figures if they were saved.
        engine: the name of the engine.
        checks: the checks of each target.
    """

    bundle: Bundle
    engine: str
    checks: list[TargetCheck]

    @property
    def failures(self) -> list[str]:
        """A line for each check that failed, with its target."""
        return [f"{check.entry.target}: {failure}" for check in self.checks for failure in check.failures]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def __repr__(self) -> str:
        result = f"{len(self.failures)} checks failed" if self.failures else "passed"
        return f"VerifyReport({self.bundle!r}, {self.engine}, {len(self.checks)} targets, {result})"
