"""The machine that a bench runs on, and the load of other processes."""

import shutil
import subprocess

import psutil

from ese_deploy.bench.peak import instruction_sets
from ese_deploy.bench.results import Host
from ese_deploy.system.machine import describe_machine
from ese_deploy.system.threads import available_threads

__all__ = ["LoadClock", "describe_host"]


def describe_host() -> Host:
    """Describe the machine, and what of it this process can use."""
    return Host(describe_machine(), instruction_sets(), available_threads(), _gpus())


class LoadClock:
    """Measures how many cores other processes kept busy since it was created."""

    def __init__(self) -> None:
        self._start = self._read()

    def read(self) -> float | None:
        """Cores busy with other processes, on average; None where too little time has passed."""
        wall, busy, own = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return round(max(0.0, busy - own) / wall, 2) if wall > 0 else None

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Wall-clock seconds, busy seconds of all cores, and busy seconds of this process and its children."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # User time already includes the time of guests.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        own = 0.0
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            try:
                spent = process.cpu_times()
            except psutil.Error:
                continue
            own += spent.user + spent.system
        return total / (psutil.cpu_count() or 1), total - idle, own


def _gpus() -> list[str]:
    """Names of the GPUs that NVIDIA's driver reports."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
