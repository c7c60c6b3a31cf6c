"""Embedding on Ray. What needs Ray itself is skipped without it, and starts a cluster of two nodes on this machine."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ese_deploy import Encoder
from ese_deploy.bulk import Fields, JobSettings, ModelSettings, RayEmbedder, RaySettings, embed_files
from ese_deploy.bulk.progress import JobProgress
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError

TEXTS = [f"row {number} of rain and bread {'on the coast ' * (number % 7)}" for number in range(300)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n" + "".join(f"{number},{text}\n" for number, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def settings(tiny_bundle: Bundle) -> JobSettings:
    return JobSettings(ModelSettings(tiny_bundle.path, ("2x16",), threads=1), Fields(id="id"), part_rows=10)


@pytest.fixture
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    started.second = started.add_node(num_cpus=1)
    yield started
    import ray

    ray.shutdown()
    started.shutdown()


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


def test_a_batch_gets_a_column_of_vectors_for_each_target(tiny_bundle: Bundle) -> None:
    embedder = RayEmbedder(tiny_bundle.path, ["2x16", "3x32"])
    found = embedder({"text": np.array(TEXTS[:5], object), "id": np.arange(5)})
    assert list(found) == ["text", "id", "embedding_2x16", "embedding_3x32"]
    np.testing.assert_allclose(found["embedding_3x32"], Encoder.open(tiny_bundle, "3x32").encode(TEXTS[:5]), atol=2e-6)
    with pytest.raises(InputError, match="The batch has no 'text'; it has body"):
        embedder({"body": np.array(["a"], object)})
    with pytest.raises(InputError, match="has NoneType, which must be str"):
        embedder({"text": np.array(["a", None], object)})


def test_without_ray_its_extra_is_named(source: Path, settings: JobSettings, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"`ray` needs Ray.*ese-deploy\[ray\]"):
        embed_files([source], tmp_path / "v", settings, ray=RaySettings())


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "actor", "node"])
def test_a_cluster_gives_the_bytes_of_one_process(
    cluster: Any, source: Path, settings: JobSettings, tmp_path: Path, lost: str
) -> None:
    embed_files([source], tmp_path / "here", settings)
    done = threading.Event()

    def report(progress: JobProgress) -> None:
        if progress.parts == 3 and not done.is_set():
            done.set()
            if lost == "node":
                cluster.remove_node(cluster.second, allow_graceful=False)
            if lost == "actor":
                processes = psutil.Process().children(recursive=True)
                next(item for item in processes if " ".join(item.cmdline()).startswith("ray::_Actor")).kill()

    on_ray = RaySettings(cluster.address, actors=2)
    summary = embed_files([source], tmp_path / "there", settings, ray=on_ray, report=report)
    assert (summary.rows, done.is_set()) == (300, True)
    assert parts(tmp_path / "here") == parts(tmp_path / "there")


@pytest.mark.slow
def test_ray_data_runs_the_class(cluster: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    import pyarrow as pa
    import ray

    pq.write_table(pa.table({"id": list(range(300)), "text": TEXTS}), tmp_path / "in.parquet")
    ray.init(address=cluster.address, log_to_driver=False)
    options = {"bundle": str(tiny_bundle.path), "target": "2x16"}
    data = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    done = data.map_batches(RayEmbedder, fn_constructor_kwargs=options, batch_size=64, concurrency=1, num_cpus=1)
    done.write_parquet(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == list(range(300))
    expected = Encoder.open(tiny_bundle, "2x16").encode(TEXTS)
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-6)
