from pathlib import Path
from typing import Any

import msgspec
import pytest

from ese_deploy.backbones.bundled import checkpoint_of
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each look-up on the hub may reach for the network."""
    calls: list[bool] = []

    def snapshot_download(model: str, *, local_files_only: bool, **_: Any) -> str:
        calls.append(not local_files_only)
        raise OSError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


def test_the_model_that_a_bundle_names_is_not_looked_up_on_the_hub(tiny_bundle: Bundle, asked: list[bool]) -> None:
    source = msgspec.structs.replace(tiny_bundle.manifest.source, model="attacker/model")
    manifest = msgspec.structs.replace(tiny_bundle.manifest, source=source)
    bundle = Bundle(Path(tiny_bundle.path), manifest, "")
    with pytest.raises(InputError, match=r"nothing is downloaded unasked\. Name the checkpoint .* with `against`"):
        checkpoint_of(bundle)
    assert asked == [False]
    with pytest.raises(InputError, match="downloading it from the hub failed"):
        checkpoint_of(bundle, "attacker/model")
    assert asked == [False, True]
