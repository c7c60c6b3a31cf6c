"""Budget profiles at export: which targets to make, and what each profile means in the bundle."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import Manifest, encode_manifest
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle
from ese_deploy.choose.profiles import (
    PROFILES_FILE,
    Profile,
    find_profile,
    profile_budgets,
    read_profiles,
)
from ese_deploy.choose.resolution import profiles_of, resolve_profile, resolved_toml
from ese_deploy.errors import CheckFailedError
from ese_deploy.export.graphs import describe_file
from ese_deploy.export.plan import grid
from ese_deploy.target import Target

__all__ = ["bundle_profiles", "keep_resolved", "profile_candidates", "write_profiles"]


def bundle_profiles(file: Path | None, existing: Bundle | None) -> dict[str, Profile]:
    """The profiles that a bundle gets: a user's file over the package's, else those of the bundle that is added to."""
    return profiles_of(existing) if existing is not None and file is None else read_profiles(file)


def profile_candidates(
    checkpoint: Checkpoint,
    profiles: dict[str, Profile],
    names: Sequence[str],
    depths: Sequence[int],
    dims: Sequence[int],
    failed: Collection[Target] = (),
) -> list[Target]:
    """Targets among which profiles may choose.

    A profile that names depth or dim fixes it. What it leaves open runs over ``depths`` and ``dims``, or over what
    training names in ``ese.json``. Of its dtypes the first that can be exported is made, and the next where all
    targets of that one ``failed``.

    Raises:
        InputError: there is no such profile.
    """
    found: set[Target] = set()
    for name in names:
        profile = find_profile(profiles, name)
        if profile.target is not None:
            found |= {Target.parse(profile.target)}.difference(failed)
            continue
        budgets = profile_budgets(profile, checkpoint.depth, checkpoint.width)
        dtypes = budgets.dtypes or ("fp32",)
        fixed_depths = [budgets.depth] if budgets.depth else depths
        fixed_dims = [budgets.dim] if budgets.dim else dims
        grids = (set(grid(checkpoint, fixed_depths, fixed_dims, [dtype])).difference(failed) for dtype in dtypes)
        found |= next(filter(None, grids), set())
    return sorted(found)


def keep_resolved(manifest: Manifest, profiles: dict[str, Profile], names: Sequence[str]) -> list[Target]:
    """Of the targets made, those that the profiles mean; all that fit no static budget but wait for a measurement.

    Raises:
        CheckFailedError: no target fits a profile.
    """
    kept: set[Target] = set()
    failures = []
    for name in names:
        profile = profiles[name]
        budgets = profile_budgets(profile, manifest.depth, manifest.width)
        if profile.target is None and budgets.needs:
            # Time and memory are the target machine's: it chooses among all of them.
            kept.update(entry.target for entry in manifest.targets)
            continue
        found = resolve_profile(name, profile, manifest)
        if found.target is None:
            failures.append(found.why)
        else:
            kept.add(found.target)
    if failures:
        raise CheckFailedError(f"{len(failures)} profiles have no target; nothing was written", failures)
    return sorted(kept)


def write_profiles(folder: Path, manifest: Manifest, profiles: dict[str, Profile]) -> Manifest:
    """Write ``profiles.toml`` and a manifest that lists it."""
    (folder / PROFILES_FILE).write_bytes(resolved_toml(profiles, manifest))
    listed = msgspec.structs.replace(manifest, profiles=describe_file(folder / PROFILES_FILE))
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(listed))
    return listed
