"""A few mutants of each kind with fixed numbers; ``make fuzz MINUTES=60`` tries as many as time allows."""

from collections import Counter
from pathlib import Path

import pytest
from hostile.mutate import make_mutant
from hostile.worker import try_bundle

from ese_deploy.bundle.reader import Bundle

MUTANTS = 120


@pytest.mark.parametrize("part", range(3))
def test_a_mutant_is_refused_in_one_line_or_gives_unit_vectors(part: int, tiny_bundle: Bundle, tmp_path: Path) -> None:
    found = Counter[str]()
    for seed in range(part * MUTANTS // 3, (part + 1) * MUTANTS // 3):
        folder = tmp_path / str(seed)
        changed = make_mutant(tiny_bundle.path, folder, seed)
        outcome = try_bundle(folder, "onnxruntime")
        assert outcome in ("refused", "vectors"), f"mutant {seed} ({changed}): {outcome}"
        found[outcome] += 1
    assert found["refused"] > found["vectors"] > 0


def test_a_number_gives_the_same_mutant_each_time(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    assert len({make_mutant(tiny_bundle.path, folder, 11) for folder in folders}) == 1
    contents = [sorted((path.name, path.read_bytes()) for path in folder.iterdir()) for folder in folders]
    assert contents[0] == contents[1]
