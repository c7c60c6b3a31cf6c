"""Atomic files, the cache folder, locks, progress, threads and the machine's description."""

__all__: list[str] = []
