"""Choosing the target of a bundle that fits budgets for quality, latency, throughput, size and memory."""

from ese_deploy.choose.api import choose
from ese_deploy.choose.choice import Budgets, Candidate, Choice, Prefer, choose_among
from ese_deploy.choose.pairs import PairChoice, choose_for
from ese_deploy.choose.profiles import Profile, profiles_file_for_bundle, read_profiles
from ese_deploy.choose.resolution import ResolvedProfile, resolve_profile
from ese_deploy.choose.selection import ProfileSelection, select_for_profiles

__all__ = [
    "Budgets",
    "Candidate",
    "Choice",
    "PairChoice",
    "Prefer",
    "Profile",
    "ProfileSelection",
    "ResolvedProfile",
    "choose",
    "choose_among",
    "choose_for",
    "profiles_file_for_bundle",
    "read_profiles",
    "resolve_profile",
    "select_for_profiles",
]
