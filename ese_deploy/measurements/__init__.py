"""Measurements of targets on this machine: what they are and where they are stored."""

__all__: list[str] = []
