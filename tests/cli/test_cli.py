import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import edit_json, names, write_json

from ese_deploy import __version__
from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.cli.console import print_table
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to damage."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A text file of three lines, one of them empty."""
    path = tmp_path / "texts.txt"
    path.write_text("A cat sat.\n\nTrains run late.\n", "utf-8")
    return path


def fails(capsys: Capture, message: str, *arguments: str, code: int = 2) -> None:
    """Run a command that must fail with one line on standard error and nothing on standard output."""
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert "unexpected" not in err
    assert out == ""


@pytest.mark.slow
def test_export_prints_a_table_and_writes_a_bundle(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(tiny_checkpoint), "--out", str(out), "--depths", "2-3", "--dims", "8,16"]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:5]] == ["2x8", "2x16", "3x8", "3x16"]
    assert printed.out.count("  passed") == 4
    assert f"Wrote {out}: 4 targets" in printed.out and "4 of 4 new targets passed every check." in printed.out
    assert "warning: Depth 2 was not trained as an exit." in printed.err
    assert main(["inspect", str(out), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["targets"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "3*128"], "Target '3*128' is not DEPTHxDIM"),
        (["--targets", "3*128"], "Target '3*128' is not DEPTHxDIM"),
        (["--target", "1x16", "--target", "1x16"], "Target '1x16' is named twice"),
        (["--target", "9x16"], "Choose a depth of 1 to 3"),
        (["--depths", "0"], "or choose a depth of at least 1"),
        (["--dims", "4"], "Choose at least 8"),
        (["--dims", "64"], "Choose 8 to 32 dimensions"),
        (["--dtype", "int4"], "Unknown dtype 'int4'. Choose one of: fp32, fp16, bf16, int8, int8-fp16."),
        (
            ["--target", "1x16", "--dims", "8"],
            "--target and a grid of --depths, --dims and --dtype exclude each other",
        ),
        (["--profile", "edge", "--dtype", "int8"], "A budget profile chooses among a grid, and its own dtypes"),
        (["--profile", " ,"], "--profile ' ,' contains an empty name"),
        (["--pooling", "cls"], "was trained with pooling 'mean'"),
        (["--no-such-option"], "No such option: --no-such-option"),
    ],
)
def test_wrong_use_of_export_is_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    fails(capsys, message, "export", str(tiny_checkpoint), "--out", str(tmp_path / "bundle"), *arguments)
    assert names(tmp_path) == []


def test_verify_compares_with_the_bundles_own_checkpoint(tiny_bundle: Bundle, capsys: Capture) -> None:
    assert main(["verify", str(tiny_bundle.path), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert [check["target"] for check in checks] == [entry.name for entry in tiny_bundle.manifest.targets]
    assert all(check["parity"]["passed"] and not check["failures"] for check in checks)


def test_verify_fails_against_another_checkpoint(tiny_bundle: Bundle, tmp_path: Path, capsys: Capture) -> None:
    from helpers.tiny import make_checkpoint

    other = make_checkpoint(tmp_path / "other", intermediate_size=64)
    assert main(["verify", str(tiny_bundle.path), "--against", str(other)]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("FAILED") == 4
    assert "1x8: max |difference| from PyTorch" in printed.err
    assert printed.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("command", ["verify", "evaluate"])
def test_the_bundles_checkpoint_is_taken_from_the_cache_of_the_hub_at_its_own_revision(
    bundle: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"] |= {"model": "somebody/model", "revision": "c0ffee"}
    manifest["targets"] = [entry for entry in manifest["targets"] if entry["dim"] < 32]
    write_json(path, manifest)
    asked = []

    def download(model: str, *, revision: str | None, allow_patterns: object, local_files_only: bool) -> str:
        asked.append((model, revision, local_files_only))
        return str(tiny_checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert main([command, str(bundle)]) == 0
    assert asked == [("somebody/model", "c0ffee", True)], "nobody asked for a download"


def test_verify_says_when_the_checkpoint_has_gone_or_changed(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["model"] = "./gone"
    write_json(path, manifest)
    fails(capsys, "Name the checkpoint of the bundle with --against", "verify", str(bundle))


def test_embed_writes_vectors_line_by_line(tiny_bundle: Bundle, texts: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "vectors.npy"
    assert main(["embed", str(tiny_bundle.path), str(texts), "--out", str(out), "--target", "2x16"]) == 0
    assert "3 vectors of 16 dimensions, target 2x16" in capsys.readouterr().out
    expected = Encoder.open(tiny_bundle, "2x16").encode(["A cat sat.", "", "Trains run late."])
    np.testing.assert_allclose(np.load(out), expected, atol=2e-6)


def test_embed_keeps_the_fields_of_json_lines(tiny_bundle: Bundle, tmp_path: Path, capsys: Capture) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": 7, "body": "A cat sat."}\n{"id": 8, "body": "Größe: 25 °C"}', "utf-8")
    bundle = str(tiny_bundle.path)
    assert main(["embed", bundle, str(source), "--out", str(out), "--text-field", "body", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == 2
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [7, 8]
    expected = Encoder.open(tiny_bundle).encode(["A cat sat.", "Größe: 25 °C"])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=2e-6)


def test_embed_puts_a_prompt_before_each_text_and_counts_truncated_ones(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\ufeffa cat\r\n" + "word " * 100, "utf-8")
    assert main(["embed", str(tiny_bundle.path), str(source), "--out", str(out), "--prompt-name", "query"]) == 0
    assert "truncated 1 of 2 texts to 48 tokens" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(out)[0], Encoder.open(tiny_bundle).encode("find: a cat"), atol=2e-6)


def test_embed_takes_queries_for_the_index_of_another_target_of_the_space(
    aligned_bundle: Bundle, tiny_bundle: Bundle, texts: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.npy"
    command = ["embed", str(aligned_bundle.path), str(texts), "--out", str(out), "--index-target", "3x16"]
    assert main([*command, "--target", "2x16", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["target"], printed["space"]) == ("2x16", "aligned")
    lines = ["A cat sat.", "", "Trains run late."]
    np.testing.assert_allclose(np.load(out), Encoder.open(aligned_bundle, "2x16").encode_query(lines), atol=2e-6)
    command[-2] = "--index"  # the old spelling
    fails(capsys, f"{out} exists. Pass --overwrite to replace it.", *command)
    assert main([*command, "--overwrite"]) == 0
    np.testing.assert_allclose(np.load(out), Encoder.open(aligned_bundle, "3x16").encode_query(lines), atol=2e-6)
    command[1] = str(tiny_bundle.path)
    fails(
        capsys,
        "(embedding space exit02) cannot be compared with documents of target 3x16 (embedding space exit03)",
        *command,
        "--target",
        "2x16",
        "--overwrite",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"fine\nbroken \xff here\n", "in.txt line 2 is not UTF-8 (byte 8"),
        ("in.jsonl", b'{"text": "a"}\n{"text": }\n', "in.jsonl line 2 is not JSON"),
        ("in.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "in.jsonl line 2 has no 'text'; it has body. "),
        ("in.jsonl", b'{"text": 3}\n', "line 1 has int as 'text'"),
        ("in.jsonl", b'["a"]\n', "line 1 is not a JSON object"),
        ("in.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("in.txt", b"", "in.txt contains no text"),
        ("in.pdf", b"a,b", "is not a file of texts. Supported: .txt, .jsonl, .tsv, .csv, also with .gz and .zst"),
    ],
)
def test_bad_input_names_its_line_and_leaves_the_output_alone(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "out.npy").write_bytes(b"precious")
    out = str(tmp_path / "out.npy")
    fails(capsys, message, "embed", str(tiny_bundle.path), str(tmp_path / name), "--out", out, "--overwrite")
    assert (tmp_path / "out.npy").read_bytes() == b"precious"
    assert names(tmp_path) == sorted([name, "out.npy"])


def test_embed_refuses_other_outputs_and_missing_inputs(
    tiny_bundle: Bundle, texts: Path, tmp_path: Path, capsys: Capture
) -> None:
    bundle = str(tiny_bundle.path)
    fails(capsys, "Choose a name that ends in .npy or .jsonl", "embed", bundle, str(texts), "--out", "out.csv")
    fails(capsys, "There is no file", "embed", bundle, str(tmp_path / "no.txt"), "--out", "out.npy")
    fails(capsys, "cannot write", "embed", bundle, str(texts), "--out", str(tmp_path / "no/where.npy"))
    (tmp_path / "dir.npy").mkdir()
    fails(capsys, "it is a folder; name a file", "embed", bundle, str(texts), "--out", str(tmp_path / "dir.npy"))
    fails(capsys, "holds no target 2x32", "embed", bundle, str(texts), "--out", "out.npy", "--target", "2x32")
    fails(capsys, "Unknown engine 'magic'", "embed", bundle, str(texts), "--out", "out.npy", "--engine", "magic")


def test_inspect_shows_a_bundle_and_the_schema(tiny_bundle: Bundle, capsys: Capture) -> None:
    assert main(["inspect", str(tiny_bundle.path)]) == 0
    printed = capsys.readouterr().out
    assert "d03_k032.fp32.onnx" in printed and "48 tokens" in printed
    assert main(["inspect", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")
    fails(capsys, "Name a bundle, or pass --schema.", "inspect")
    fails(capsys, "There is no bundle at nowhere", "inspect", "nowhere")


def test_doctor_checks_every_target_on_the_golden_texts(tiny_bundle: Bundle, capsys: Capture) -> None:
    assert main(["doctor", str(tiny_bundle.path), "--json"]) == 0
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    for name in ("bundle", "weights.fp32.data", "tokenizer", "1x8", "2x16", "3x16", "3x32", "engine onnxruntime"):
        assert findings[name]["ok"] is True, name


@pytest.mark.slow
def test_a_model_with_a_default_prompt_is_exported_and_checked_with_it(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    checkpoint, out = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")), tmp_path / "bundle"
    edit_json(checkpoint / "config_sentence_transformers.json", default_prompt_name="query")
    assert main(["export", str(checkpoint), "--out", str(out), "--targets", "1x16,3x32"]) == 0
    assert main(["verify", str(out)]) == 0
    assert main(["doctor", str(out)]) == 0
    encoder = Encoder.open(out, "1x16")
    np.testing.assert_array_equal(encoder.encode(["a cat"]), encoder.encode(["find: a cat"], prompt=""))


@pytest.mark.parametrize("name", ["weights.fp32.data", "tokenizer.json", "golden.json", "ranges.json"])
def test_doctor_and_verify_find_what_opening_does_not(bundle: Path, capsys: Capture, name: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for command, code in (("doctor", 1), ("verify", 2)):
        assert main([command, str(bundle)]) == code
        assert f"{name} is not the file that was exported" in capsys.readouterr().err


def test_doctor_finds_a_machine_that_computes_something_else(bundle: Path, capsys: Capture) -> None:
    import hashlib

    path = bundle / "golden.json"
    golden = json.loads(path.read_text())
    golden["vectors"]["d02_k016.fp32"][0][0] += 1e-3
    write_json(path, golden)
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["golden"].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    write_json(bundle / "manifest.json", manifest)
    assert main(["doctor", str(bundle)]) == 1
    assert "2x16: Largest difference from PyTorch: 1.0e-03" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 30])
def test_a_table_keeps_every_letter_and_folds_its_last_column_alone(
    columns: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["engine onnxruntime-tensorrt", "FAILED", "pip install 'ese-deploy[tensorrt]' :smile: " + "word " * 40]]
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(["", "result", "found"], rows)
    head, line = (item.split() for item in capsys.readouterr().out.splitlines())
    assert head == ["result", "found"] and line == " ".join(rows[0]).split()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(["", "result", "found"], rows)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) > 3 and max(map(len, lines)) == max(columns, 50)
    assert "".join("".join(lines).split()) == "".join(line)


def test_an_output_that_nobody_reads_ends_quietly(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "ese_deploy.cli", "inspect", str(tiny_bundle.path)]
    for arguments in ([], ["--schema"]):
        with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
            assert done.stdout is not None and done.stderr is not None
            done.stdout.close()
            assert done.stderr.read() == b""
        assert done.returncode == 141


def test_an_output_without_a_character_gets_escapes(tiny_bundle: Bundle, texts: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "\u6a21.npy")
    command = [sys.executable, "-m", "ese_deploy.cli", "embed", str(tiny_bundle.path), str(texts), "--out", out]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    plain, as_json = (
        subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
        for options in (["--overwrite"], ["--json", "--overwrite"])
    )
    assert (plain.returncode, as_json.returncode, plain.stderr) == (0, 0, "")
    assert r"\u6a21.npy: 3 vectors" in plain.stdout
    assert json.loads(as_json.stdout)["out"] == out


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    assert main(["inspect", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_program_answers_as_a_program() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "ese_deploy.cli", *arguments], capture_output=True, text=True)

    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"ese-deploy {__version__}\n")
    help_text = run("--help")
    assert help_text.returncode == 0
    for command in ("export", "verify", "inspect", "embed", "doctor"):
        assert command in help_text.stdout
    wrong = run("exprot")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: No such command 'exprot'") and wrong.stderr.count("\n") == 1
    bare = run()
    assert bare.returncode == 2
    assert bare.stdout == help_text.stdout


def test_errors_name_options_where_functions_name_arguments(capsys: Capture) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("`targets` excludes `max_seq_length` and `depths=1-6`; pass `keep_failed=True`, not `a b`.")

    assert main([], fail) == 2
    assert capsys.readouterr().err == (
        "error: --target excludes --max-seq-length and --depths 1-6; pass --keep-failed, not `a b`.\n"
    )


def test_log_lines_go_to_standard_error_and_only_while_a_command_runs(capsys: Capture) -> None:
    logger = logging.getLogger("ese_deploy.somewhere")

    def work(*_: object, **__: object) -> None:
        logger.debug("silent")
        logger.info("wrote %s", "x")
        logger.warning("3 texts were cut")

    assert main([], work) == 0
    logger.info("nobody listens")
    assert capsys.readouterr() == ("", "wrote x\nwarning: 3 texts were cut\n")
