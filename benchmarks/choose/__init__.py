"""Checks of ``ese-deploy choose``: its recommendations, its predictions, and a busy machine."""
