"""Training on the GPU: the losses of its steps in bf16 beside those in fp32, and those of the CPU."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.models import model_folder, require_model
from benchmarks.gpu.step import Skip, Step, run
from ese_deploy.texts.sample import sample_corpus

# Of the mean difference between losses in bf16 and in fp32 on one device.
_TOLERANCE = 0.01
_NEEDED = ("datasets", "accelerate", "sentence_transformers")


def measure_training(step: Step) -> None:
    """Train in both dtypes and on the CPU at once, and compare the losses."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"training needs {', '.join(missing)}")
    steps = 3 if step.tiny else 50
    with step.case(case="training", model="minilm-l6", steps=steps, batch=7, dtype="bf16") as found:
        require_model(step, "minilm-l6")
        texts = step.work / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": item.text}) + "\n" for item in sample_corpus()))
        on_cpu = ["--use_cpu", "1"]
        device = [] if step.device == "cuda" else on_cpu
        runs = {"fp32": device, "bf16": [*device, "--bf16", "1"]} | ({"cpu": on_cpu} if step.device == "cuda" else {})
        running = {name: _start(step, name, texts, steps, flags) for name, flags in runs.items()}
        losses = {name: _losses(step, name, process) for name, process in running.items()}
        found["first_loss"], found["last_loss"] = round(losses["bf16"][0], 6), round(losses["bf16"][-1], 6)
        differences = _differences(losses["fp32"], losses["bf16"])
        found["mean_difference"] = round(statistics.mean(differences), 6)
        found["max_difference"] = round(max(differences), 6)
        if "cpu" in losses:
            # Recorded, not checked. A few texts of random weights have fewer principal components than dimensions;
            # each library completes them in its own way, and the first losses depend on that.
            found["cpu_median_difference"] = round(statistics.median(_differences(losses["cpu"], losses["fp32"])), 6)
        if not found["mean_difference"] <= _TOLERANCE:
            raise AssertionError(f"losses in bf16 differ from fp32's by {found['mean_difference']:.1%} on average")


def _differences(expected: list[float], got: list[float]) -> list[float]:
    return [abs(a - b) / abs(a) for a, b in zip(expected, got, strict=True)]


def _run_folder(step: Step, name: str) -> Path:
    return step.work / f"trained-{os.getpid()}-{name}"


def _start(step: Step, name: str, texts: Path, steps: int, flags: list[str]) -> "subprocess.Popen[str]":
    out = _run_folder(step, name)
    model = str(model_folder(step.work, "minilm-l6"))
    # Without dropout both runs compute the same but for rounding.
    settings = {"dropout": 0, "max_steps": steps, "save_steps": steps, "logging_steps": 1, "batch_size": 7}
    settings |= {"maxlen": 24, "workers": 0, "warmup_steps": 5, "learning_rate": 1e-4, "seed": 42}
    command = [sys.executable, "-m", "training.train", "--model_name_or_path", model]
    command += ["--train_name_or_path", str(texts), "--save_dir", str(out), *flags]
    command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _losses(step: Step, name: str, process: "subprocess.Popen[str]") -> list[float]:
    output, _ = process.communicate()
    print(output, flush=True)
    if process.returncode:
        raise RuntimeError(f"training on {name} ended with exit code {process.returncode}: {output.splitlines()[-1:]}")
    folder = _run_folder(step, name)
    (state, *_) = sorted(folder.with_name(f"{folder.name}.run").rglob("trainer_state.json"))
    history = json.loads(state.read_text())["log_history"]
    return [float(entry["loss"]) for entry in history if "loss" in entry]


if __name__ == "__main__":
    run("training", measure_training)
