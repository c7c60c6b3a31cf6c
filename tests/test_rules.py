"""The rules of the house: who imports whom, what the runtime may need, and that nothing phones home."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines.onnxruntime_cpu import NO_TELEMETRY

PACKAGE = Path(__file__).parent.parent / "ese_deploy"

FORBIDDEN = {
    "runtime": {"backbones", "export", "verify", "losses", "bench", "evaluate", "report", "cli"},
    "engines": {"backbones", "export", "verify", "losses", "bench", "evaluate", "report", "cli", "runtime"},
    "losses": {"export", "verify", "bench", "evaluate", "report", "cli", "runtime", "engines"},
    "backbones": {"export", "verify", "bench", "cli", "runtime", "engines"},
    "bench": {"backbones", "export", "verify", "losses", "evaluate", "report", "cli"},
    "report": {"backbones", "export", "verify", "losses", "evaluate", "engines", "runtime", "cli"},
}
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "scipy", "typer", "rich", "sentence_transformers")


def imported(path: Path) -> set[str]:
    """Modules that a file imports from the package, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in ("ese_deploy", "training", "benchmarks")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] == "ese_deploy", f"the package imports nothing of {parts[0]}/"
        if len(parts) > 1:
            assert parts[1] not in FORBIDDEN.get(room, set()), f"{room} must not import {name}"
            assert parts[1] != "cli" or room == "cli", f"{room} must not import cli"


def test_the_scripts_import_nothing_of_one_another() -> None:
    root = PACKAGE.parent
    for path in (root / "training").rglob("*.py"):
        assert not {name for name in imported(path) if name.startswith("benchmarks")}, path
    scripts = (*(root / "benchmarks").glob("*.py"), *(root / "benchmarks").glob("[!.]*/*.py"))  # not the peers' .envs
    for path in scripts:
        assert not {name for name in imported(path) if name.startswith("training")}, path


def run_blocked(code: str, bundle: Path, blocked: tuple[str, ...]) -> str:
    script = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Block())
import socket
def refuse(*_, **__):
    raise AssertionError("something reached for the network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
BUNDLE = {str(bundle)!r}
{code}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embedding_needs_numpy_tokenizers_msgspec_and_an_engine_and_no_network(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy import Encoder\nprint(Encoder.open(BUNDLE).encode('hello').shape)"
    assert run_blocked(code, tiny_bundle.path, HEAVY) == "(32,)\n"


def test_onnxruntime_leaves_the_home_folder_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Its telemetry starts at import, and keeps there what it did not send."""
    kept = {name: value for name, value in os.environ.items() if name not in (*NO_TELEMETRY, "XDG_CACHE_HOME")}
    code = f"from ese_deploy import Encoder; Encoder.open({str(tiny_bundle.path)!r}).encode('hello')"
    subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


def test_the_edge_verbs_need_no_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hello\n")
    for arguments in (
        ["doctor", str(tiny_bundle.path), "--json"],
        ["inspect", str(tiny_bundle.path), "--json"],
        ["embed", str(tiny_bundle.path), str(tmp_path / "in.txt"), "--out", str(tmp_path / "out.npy"), "--json"],
    ):
        heavy = tuple(name for name in HEAVY if name not in ("typer", "rich"))
        code = f"from ese_deploy.cli.app import main\nsys.exit(main({arguments!r}))"
        json.loads(run_blocked(code, tiny_bundle.path, heavy))


def test_verbs_that_need_an_extra_name_it(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy.cli.app import main\nsys.stderr = sys.stdout\nprint(main(['verify', BUNDLE]))"
    out = run_blocked(code, tiny_bundle.path, ("torch",))
    assert out == "error: This command needs torch. Run: pip install 'ese-deploy[export]'\n2\n"


def test_without_the_cli_extra_the_program_names_it(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy.cli import run\nsys.stderr = sys.stdout\ntry: run()\nexcept SystemExit as e: print(e)"
    out = run_blocked(code, tiny_bundle.path, ("typer",))
    assert out == "error: The command line needs typer. Run: pip install 'ese-deploy[cli]'\n2\n"


def test_without_an_engine_the_error_names_the_extra(tiny_bundle: Bundle) -> None:
    code = (
        "from ese_deploy import Encoder\ntry:\n    Encoder.open(BUNDLE)\nexcept Exception as error:\n    print(error)"
    )
    out = run_blocked(code, tiny_bundle.path, ("onnxruntime",))
    assert "ONNX Runtime" in out and out.count("\n") == 1


def test_engines_for_gpus_import_what_the_runtime_has_and_their_own_library_only_when_loaded() -> None:
    modules = [f"ese_deploy.engines.{name}" for name in ("onnxruntime_cuda", "onnxruntime_tensorrt", "tensorrt")]
    blocked = (*HEAVY, "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda")
    run_blocked(f"import {', '.join(modules)}", Path(), blocked)


def test_tensorrt_has_one_way_in() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"import_module|import tensorrt|tensorrt_rtx_bindings", path.read_text("utf-8"))
    }
    assert users == {"engines/tensorrt/api.py"}


def test_every_module_says_what_it_offers() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {
            target.id
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert "__all__" in names or path.name == "__main__.py", path
