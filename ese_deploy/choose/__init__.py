"""From budgets to a target: what is wanted, what each target is worth and costs here, and which one to take."""

from ese_deploy.choose.choice import Budgets, Candidate, Choice, choose
from ese_deploy.choose.profiles import Profile, read_profiles
from ese_deploy.choose.resolution import profile_target

__all__ = ["Budgets", "Candidate", "Choice", "Profile", "choose", "profile_target", "read_profiles"]
