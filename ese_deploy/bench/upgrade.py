"""Results files of schema version 1, as those of version 2."""

import re
from typing import Any

__all__ = ["upgrade"]

_OWN = "ese-deploy"
_DEFAULT = " (default)"
_ONE_TEXT = "one text"
_STUDIES = {"depth": "depth", "width": "dim", "budget": "batch_tokens"}


def upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Convert a decoded file of version 1, which kept batch sizes and targets as text.

    Raises:
        KeyError, TypeError, ValueError: it is not such a file.
    """
    new = {**old, "schema_version": 2}
    new["groups"] = [_group(group) for group in new["groups"]]
    new["baselines"] = [_baseline(one) for one in new.pop("peers")]
    new["restricted"] = dict(item.split(" ", 1) for item in old["restricted"].split(", ") if item)
    return new


def _group(old: dict[str, Any]) -> dict[str, Any]:
    new = {**old, "study": _STUDIES[old["study"]], "rows": [_row(row) for row in old["rows"]]}
    new["peaks"], new["other_load"] = new.pop("limits"), new.pop("others")
    return new


def _row(old: dict[str, Any]) -> dict[str, Any]:
    new = dict(old)
    who, setting = new.pop("who"), new.pop("setting")
    depth, dim = new.pop("target").split("x")
    batch, mode = _batch(setting.removesuffix(_DEFAULT))
    timing = {name: new.pop(name) for name in ("seconds", "calls", "percentiles")}
    return {
        **new,
        "kind": "target" if who == _OWN else "baseline",
        "name": who,
        "depth": int(depth),
        "dim": int(dim),
        "batch": batch,
        "mode": mode,
        # Latency was measured without a token budget, that is with the default.
        "is_default": who == _OWN and (setting.endswith(_DEFAULT) or batch is None),
        "timing": timing,
    }


def _batch(setting: str) -> tuple[int | None, str]:
    """Batch and mode of a setting such as ``256 tokens``, ``32 texts, throughput`` or ``one text``."""
    if setting == _ONE_TEXT:
        return None, ""
    found = re.fullmatch(r"(\d+) (?:texts|tokens)(?:, (.+))?", setting)
    if found is None:
        raise ValueError(f"unknown setting '{setting}'")
    return int(found[1]), found[2] or ""


def _baseline(old: dict[str, Any]) -> dict[str, Any]:
    new = dict(old)
    new["trials"] = {
        length: [
            dict(zip(("batch", "mode"), _batch(setting), strict=True), seconds=taken) for setting, taken in one.items()
        ]
        for length, one in new.pop("sweep").items()
    }
    return new
