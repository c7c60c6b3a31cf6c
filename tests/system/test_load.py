"""The share of the processors that others use."""

import os
import sys
from pathlib import Path

import pytest

from ese_deploy.system.load import Load, busy_cores, read_load


def test_processors_that_others_took_are_counted() -> None:
    start = Load(wall=100.0, used=50.0, own=7.0, cores=2)
    quiet = Load(wall=110.0, used=62.0, own=17.0, cores=2)
    busy = Load(wall=110.0, used=70.0, own=17.0, cores=2)
    assert busy_cores(start, quiet, threads=2) == 0
    assert busy_cores(start, busy, threads=2) == 1.0
    assert busy_cores(start, busy, threads=1) == 0, "the second processor was free for the others"
    assert busy_cores(None, busy, threads=2) == 0
    assert busy_cores(start, start, threads=2) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/stat")
def test_the_load_is_that_of_the_processors_this_process_may_use(tmp_path: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))[0]
    (tmp_path / "proc").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    row = f"cpu{mine} {3 * ticks} {ticks} {2 * ticks} {90 * ticks} {5 * ticks} 0 0 {ticks} {ticks} 0"
    (tmp_path / "proc/stat").write_text(f"cpu  9 9 9 9 9 9 9 9 9 9\n{row}\ncpu99999 7 7 7 7 7 7 7 7 7 7\nintr 5\n")
    load = read_load(tmp_path)
    assert load is not None
    assert (load.used, load.cores) == (7.0, 1)
    assert read_load(tmp_path / "nowhere") is None
    assert read_load() is not None
