"""Measurements of ese-deploy; README.md says how the figures were taken."""
