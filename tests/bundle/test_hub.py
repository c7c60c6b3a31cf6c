import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.hub import Hub, run_hub

from ese_deploy.bundle.hub import fetch_bundle, is_hub_name, push_bundle
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder

NAME = "me/tiny-ese"
TEXTS = ["hello", "a longer text, with some more words"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub(NAME) as hub:
        yield hub


def run(hub: Hub, home: Path, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process of its own: huggingface_hub reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [
        sys.executable,
        "-c",
        f"import sys\nfrom ese_deploy import Encoder\nfrom ese_deploy.cli.app import main\n{code}",
    ]
    return subprocess.run(command, env={**os.environ, **settings, **env}, capture_output=True, text=True)


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_bundle_goes_to_the_hub_and_comes_back(hub: Hub, projected_bundle: Bundle, tmp_path: Path) -> None:
    hub.files = {"d09_k009.fp32.onnx": b"an old target", ".gitattributes": b""}
    printed = ok(run(hub, tmp_path, f"sys.exit(main(['push', {str(projected_bundle.path)!r}, {NAME!r}, '--private']))"))
    assert f"/{NAME}/commit/" in printed and hub.private is True
    names = {path.name for path in projected_bundle.path.iterdir()}
    assert set(hub.files) == {*names, ".gitattributes"}
    assert hub.files["manifest.json"] == (projected_bundle.path / "manifest.json").read_bytes()
    assert f'Encoder.from_pretrained("{NAME}", target="3x32")' in hub.files["README.md"].decode()

    code = f"""
encoder = Encoder.from_pretrained({NAME!r}, target="2x16")
import json, pickle
encoder = pickle.loads(pickle.dumps(encoder))
print(json.dumps(encoder.encode({TEXTS!r}).tolist()), len(encoder.manifest.targets))"""
    vectors, count = ok(run(hub, tmp_path / "home", code)).rsplit(" ", 1)
    expected = Encoder.open(projected_bundle, "2x16").encode(TEXTS)
    assert np.abs(np.array(json.loads(vectors)) - expected).max() <= 1e-6
    assert int(count) == 1
    graphs = [file for file in hub.downloads if file.endswith(".onnx")]
    assert graphs == ["d02_k016.fp32.onnx"] and "projection.safetensors" not in hub.downloads

    # Everything that the target needs is in the cache now, and nothing else.
    offline = {"HF_HUB_OFFLINE": "1"}
    ok(run(hub, tmp_path / "home", f"Encoder.from_pretrained({NAME!r}, target='2x16')", **offline))
    failed = run(hub, tmp_path / "home", f"Encoder.from_pretrained({NAME!r}, target='3x32')", **offline)
    assert "The hub cannot be reached, and the cache" in failed.stderr and "home/hub" in failed.stderr

    folder = ok(run(hub, tmp_path / "home", f"sys.exit(main(['pull', {NAME!r}]))")).strip()
    source = Encoder.open(folder, "1x32", space="source").encode(TEXTS)
    assert np.abs(source - Encoder.open(projected_bundle, "1x32", space="source").encode(TEXTS)).max() <= 1e-6


def test_what_is_not_on_the_hub_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"not a bundle"}
    code = f"""
from ese_deploy.bundle.hub import fetch_bundle
for name, revision in (({NAME!r}, None), ({NAME!r}, "v9"), ("you/nothing", None)):
    try:
        fetch_bundle(name, revision=revision)
    except Exception as error:
        print(type(error).__name__, error)"""
    whole, revision, repository = ok(run(hub, tmp_path, code)).splitlines()
    assert whole == f"InputError '{NAME}' on the hub is not a whole bundle. Upload it with: ese-deploy push"
    assert "has no such revision" in revision
    assert "There is no 'you/nothing' on the hub, or it is private" in repository


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "../x", ""])
def test_names_of_another_form_are_refused(tiny_bundle: Bundle, name: str) -> None:
    for action in (lambda: fetch_bundle(name), lambda: push_bundle(tiny_bundle, name)):
        with pytest.raises(InputError, match=r"is not a name on the hub. Write owner/name"):
            action()


def test_from_pretrained_opens_folders_too(tiny_bundle: Bundle) -> None:
    encoder = Encoder.from_pretrained(tiny_bundle.path, target="2x16")
    assert str(encoder.target) == "2x16"
    with pytest.raises(InputError, match="`revision` main is of the hub"):
        Encoder.from_pretrained(tiny_bundle.path, revision="main")


def test_a_folder_is_not_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exports/minilm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (is_hub_name("exports/minilm"), is_hub_name("owner/minilm")) == (False, True)
