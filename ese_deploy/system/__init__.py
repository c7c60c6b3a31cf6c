"""Atomic files, locks, the cache folder, progress, threads and a description of the machine."""

__all__: list[str] = []
