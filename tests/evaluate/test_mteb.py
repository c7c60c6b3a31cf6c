from pathlib import Path

import pytest
from helpers.evaluation import pairs

from ese_deploy.bundle.reader import Bundle
from ese_deploy.evaluate import evaluate_sts
from ese_deploy.runtime import Encoder

mteb = pytest.importorskip("mteb", reason="mteb is not installed; pip install 'ese-deploy[mteb]'")


def test_mteb_gives_a_target_the_figure_that_we_give_it(tiny_bundle: Bundle, tmp_path: Path) -> None:
    import datasets
    from mteb.abstasks import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    from ese_deploy.evaluate.mteb import MtebModel

    data = pairs(40)

    class LocalSts(AbsTaskSTS):
        metadata = TaskMetadata(
            name="LocalSts",
            description="Pairs made on the spot.",
            dataset={"path": "none", "revision": "none"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )
        min_score, max_score = 0, 5

        def load_data(self, *_, **__) -> None:
            columns = {"sentence1": data.first, "sentence2": data.second, "score": data.scores.tolist()}
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)})
            self.data_loaded = True

    encoder = Encoder.open(tiny_bundle, "2x16")
    found = mteb.evaluate(MtebModel(encoder, "tests/tiny"), LocalSts(), cache=None, show_progress_bar=False)
    score = found.task_results[0].scores["test"][0]["cosine_spearman"]
    assert score == pytest.approx(evaluate_sts(encoder, data).spearman, abs=1e-5)


def test_mteb_hands_queries_and_documents_to_the_models_own_prompts() -> None:
    from mteb.types import PromptType

    from ese_deploy.evaluate.mteb import MtebModel

    class Says:
        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[0.0] for _ in texts]

        def encode_query(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] for _ in texts]

        def encode_document(self, texts: list[str]) -> list[list[float]]:
            return [[2.0] for _ in texts]

    model = MtebModel(Says(), "tests/says")
    for role, expected in ((None, 0), (PromptType.query, 1), (PromptType.document, 2)):
        vectors = model.encode(
            [{"text": ["a", "b"]}, {"text": ["c"]}],
            task_metadata=None,
            hf_split="test",
            hf_subset="default",
            prompt_type=role,
        )
        assert vectors.tolist() == [[expected]] * 3
