"""The files in deploy/ name metrics, options and paths that the server has."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.server import Running

from ese_deploy.cli.app import COMMANDS, load_command

DEPLOY = Path(__file__).parents[2] / "deploy"


def options() -> set[str]:
    row = next(row for row in COMMANDS if row.name == "serve")
    return {name for parameter in load_command(row).params for name in parameter.opts}


def named(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def manifests() -> list[dict[str, Any]]:
    texts = [path.read_text() for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))]
    return [one for text in texts for one in yaml.safe_load_all(text)]


def test_the_dashboard_shows_metrics_that_exist(server: Running) -> None:
    server.embed(input="a")
    known = set(re.findall(r"^# TYPE (\w+)", server.get("/metrics").body.decode(), re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bese_\w+", expressions)}
    assert used <= known
    scaled = [metric["pods"]["metric"]["name"] for one in manifests() for metric in one["spec"].get("metrics", [])]
    assert scaled and set(scaled) <= known


def test_every_option_is_one_of_the_command() -> None:
    deployment = next(one for one in manifests() if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["embeddings"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    default = json.loads(re.findall(r'^CMD (\["serve.*)$', dockerfile, re.MULTILINE)[0])
    unit = shlex.split(re.findall(r"^ExecStart=(.*)$", (DEPLOY / "ese-deploy.service").read_text(), re.MULTILINE)[0])
    for words in (container["args"], compose["command"], default, unit[1:]):
        assert words[0] == "serve"
        assert named(words) and named(words) <= options()


def test_probes_ask_for_paths_that_exist(server: Running) -> None:
    deployment = next(one for one in manifests() if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    checked = re.findall(r"127\.0\.0\.1:8000(/\w+)", (DEPLOY / "Dockerfile").read_text())
    assert checked == ["/readyz"]
    assert all(server.get(path).status == 200 for path in {*paths, *checked})


def test_more_time_to_end_than_the_server_takes() -> None:
    deployment = next(one for one in manifests() if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    words = pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] > 5 + float(words[words.index("--drain-seconds") + 1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    program = tmp_path / "ese-deploy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "ese-deploy.service").read_text().replace("/opt/ese-deploy/bin/ese-deploy", str(program))
    (tmp_path / "ese-deploy.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "ese-deploy.service")], capture_output=True, text=True
    )
    about_it = [line for line in done.stderr.splitlines() if "ese-deploy.service" in line]
    assert (done.returncode, about_it) == (0, [])


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run(["hadolint", str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("kubernetes-validate") is None, reason="needs kubernetes-validate")
def test_the_manifests_follow_the_schema_of_kubernetes() -> None:
    files = sorted(map(str, (DEPLOY / "kubernetes").glob("*.yaml")))
    done = subprocess.run(["kubernetes-validate", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("passed") == 4
