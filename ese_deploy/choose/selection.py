"""Budget profiles at export: which targets to make, and which of them to keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose.profiles import Profile, Profiles, bundle_profiles, find_profile, profile_budgets, read_profiles
from ese_deploy.choose.resolution import resolve_in_manifest
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.target import Target

__all__ = ["ProfileSelection", "select_for_profiles"]

Grid = Callable[[Sequence[int] | None, Sequence[int] | None, Sequence[str]], list[Target]]
"""Makes targets of depths, dims and dtypes; None stands for the depths or dims that the export was asked for."""


@dataclass(frozen=True)
class ProfileSelection:
    """Chooses the targets of an export by budget profiles.

    Attributes:
        profiles: the profiles, by name.
    """

    profiles: Profiles

    def candidates(self, depth: int, width: int, grid: Grid) -> list[Target]:
        """The targets to make, among which :meth:`select` chooses.

        Args:
            depth: layers of the full model.
            width: dimensions of the full model.
            grid: makes targets; a profile that names a depth or a dim fixes it.
        """
        found: set[Target] = set()
        for profile in self.profiles.values():
            if profile.target is not None:
                found.add(Target.parse(profile.target))
                continue
            budgets = profile_budgets(profile, depth, width)
            depths, dims = budgets.depth and [budgets.depth], budgets.dim and [budgets.dim]
            found |= set(grid(depths or None, dims or None, budgets.dtypes or ("fp32",)))
        return sorted(found)

    def select(self, manifest: Manifest) -> list[Target]:
        """The targets to keep: what each profile takes.

        A profile that limits time or memory keeps all of them, because only the machine that runs them can choose.

        Raises:
            CheckFailedError: no target fits a profile.
        """
        kept: set[Target] = set()
        failures = []
        for name, profile in self.profiles.items():
            if _is_measured(profile, manifest):
                kept.update(entry.target for entry in manifest.targets)
                continue
            try:
                kept.add(resolve_in_manifest(name, profile, manifest).target)
            except InputError as error:
                failures.append(str(error))
        if failures:
            raise CheckFailedError(f"{len(failures)} profiles have no target; nothing was written", failures)
        return sorted(kept)

    def explain(self, manifest: Manifest) -> list[str]:
        """One sentence for each profile: which target it takes, and why."""
        return [
            f"Profile {name} limits time or memory; its target is chosen on the machine that runs it"
            if _is_measured(profile, manifest)
            else resolve_in_manifest(name, profile, manifest).reason
            for name, profile in self.profiles.items()
        ]


def select_for_profiles(
    names: Sequence[str], profiles: str | Path | None = None, bundle: Bundle | None = None
) -> ProfileSelection:
    """Read the profiles that decide which targets an export makes.

    Args:
        names: names of profiles, such as ``["edge", "server"]``.
        profiles: your own profiles, a TOML file.
        bundle: the bundle that the export adds to, which may have profiles of its own.

    Raises:
        InputError: there is no such profile, or the file cannot be read.
    """
    known = read_profiles(profiles) if bundle is None else bundle_profiles(bundle, profiles)
    return ProfileSelection({name: find_profile(known, name) for name in names})


def _is_measured(profile: Profile, manifest: Manifest) -> bool:
    return profile.target is None and bool(profile_budgets(profile, manifest.depth, manifest.width).needs)
