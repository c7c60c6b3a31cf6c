import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle, read_projection
from ese_deploy.bundle.spaces import describe_spaces, invert, reaches_source, rotation
from ese_deploy.errors import BundleError, InputError
from ese_deploy.export import export
from ese_deploy.projections.projection import read_exit_matrix
from ese_deploy.runtime import Encoder

TEXTS = ["hello", "a longer text, with some more words", "Café, naïve, Zürich"]


def test_full_depth_in_the_source_space_gives_the_vectors_of_the_unprojected_model(
    tiny_bundle: Bundle, projected_bundle: Bundle
) -> None:
    expected = Encoder.open(tiny_bundle, "3x32").encode(TEXTS)
    found = Encoder.open(projected_bundle, "3x32", space="source").encode(TEXTS)
    assert np.abs(found - expected).max() <= 1e-5
    own = Encoder.open(projected_bundle, "3x32").encode(TEXTS)
    assert (own * expected).sum(1).max() < 0.9


def test_shallow_targets_are_rotated_by_the_same_matrix(projected_bundle: Bundle) -> None:
    own, source = (Encoder.open(projected_bundle, "1x32", space=space) for space in ("bundle", "source"))
    matrix = rotation(projected_bundle)
    assert matrix is not None
    assert np.abs(source.encode(TEXTS) @ matrix.T - own.encode(TEXTS)).max() <= 1e-5
    assert (own.space, source.space) == ("aligned-" + own.space[-8:], "exit03")


def test_queries_and_documents_can_both_be_in_the_source_space(projected_bundle: Bundle) -> None:
    encoder = Encoder.open(projected_bundle, query_target="1x32", document_target="3x32", space="source")
    expected = Encoder.open(projected_bundle, "1x32", space="source").encode(TEXTS, prompt_name="query")
    assert np.array_equal(encoder.encode_query(TEXTS), expected)


def test_another_process_opens_the_same_space(projected_bundle: Bundle) -> None:
    encoder = Encoder.open(projected_bundle, "3x32", space="source")
    assert "space='exit03'" in repr(encoder)
    copied = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(copied.encode(TEXTS), encoder.encode(TEXTS))


def test_without_projections_the_source_space_is_the_own_space(tiny_bundle: Bundle) -> None:
    for target in ("3x16", "3x32"):
        source = Encoder.open(tiny_bundle, target, space="source")
        assert np.array_equal(source.encode(TEXTS), Encoder.open(tiny_bundle, target).encode(TEXTS))
        assert source.encode(TEXTS, precision="int8").dtype == np.int8


def test_a_prefix_cannot_reach_the_source_space(projected_bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"needs all 32 dimensions. Choose 2x32, or .* convert-index .* --dim 16"):
        Encoder.open(projected_bundle, "2x16", space="source")


def test_an_exit_with_a_space_of_its_own_cannot(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="do not share the space of the full depth"):
        Encoder.open(tiny_bundle, "1x8", space="source")


def test_an_unknown_space_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"Unknown `space` 'target'. Choose one of: bundle, source"):
        Encoder.open(tiny_bundle, space="target")  # type: ignore[arg-type]


def test_ranges_are_of_the_own_space(projected_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="ranges of the bundle's own embedding space"):
        Encoder.open(projected_bundle, "3x32", space="source").encode(TEXTS, precision="int8")


def test_similarity_refuses_two_spaces_and_names_the_way_out(tiny_bundle: Bundle, projected_bundle: Bundle) -> None:
    own, source, plain = (
        Encoder.open(projected_bundle, "3x32"),
        Encoder.open(projected_bundle, "3x32", space="source"),
        Encoder.open(tiny_bundle, "3x32"),
    )
    vectors = own.encode(TEXTS)
    for second in (source, plain):
        with pytest.raises(InputError, match=r"are not comparable. Open both with `space=source`, or .*convert-index"):
            own.similarity(vectors, vectors, second_encoder=second)
    assert source.similarity(source.encode(TEXTS), plain.encode(TEXTS), second_encoder=plain).diagonal().min() > 0.99


def test_similarity_refuses_bundles_of_other_weights(tiny_bundle: Bundle) -> None:
    source = msgspec.structs.replace(tiny_bundle.manifest.source, weights_sha256="0" * 64)
    other = Bundle(tiny_bundle.path, msgspec.structs.replace(tiny_bundle.manifest, source=source), "")
    first, second = Encoder.open(tiny_bundle, "3x32"), Encoder.open(other, "3x32")
    with pytest.raises(InputError, match="the bundles were made of different weights"):
        first.similarity(first.encode("a"), second.encode("a"), second_encoder=second)


def test_an_export_can_leave_out_the_rotation(
    tiny_checkpoint: Path, calibration_file: Path, tiny_bundle: Bundle, projected_bundle: Bundle, tmp_path: Path
) -> None:
    targets = ["1x32", "3x32"]
    exported = export(
        tiny_checkpoint,
        tmp_path / "bundle",
        targets=targets,
        projection="aligned",
        calibration=calibration_file,
        space="source",
    )
    bundle = exported.bundle
    assert {entry.space for entry in bundle.manifest.targets} == {"exit03"}
    assert rotation(bundle) is None
    for target in targets:
        expected = Encoder.open(projected_bundle, target, space="source").encode(TEXTS)
        assert np.abs(Encoder.open(bundle, target).encode(TEXTS) - expected).max() <= 1e-5
    first, second = Encoder.open(bundle, "3x32"), Encoder.open(tiny_bundle, "3x32")
    assert first.similarity(first.encode("a"), second.encode("a"), second_encoder=second)[0, 0] > 0.99
    with pytest.raises(InputError, match="was exported with `space=source`"):
        export(
            tiny_checkpoint,
            bundle.path,
            targets="2x32",
            projection="aligned",
            calibration=calibration_file,
            update=True,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "3x16", "projection": "aligned"}, "Target '3x16' is a prefix of principal components"),
        ({"targets": "3x32", "projection": "pca"}, "Projection 'pca' is a rotation"),
        ({"targets": "1x32"}, "Exit 1 does not share the embedding space"),
        ({"targets": "3x32", "update": True}, "cannot add to a bundle with `space=source`"),
        ({"targets": "3x32", "space": "mine"}, "Unknown `space` 'mine'"),
    ],
)
def test_an_export_that_cannot_be_in_the_source_space_is_refused(
    tiny_checkpoint: Path, calibration_file: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    texts = calibration_file if "projection" in options else None
    with pytest.raises(InputError, match=message):
        export(tiny_checkpoint, tmp_path / "out", calibration=texts, **{"space": "source", **options})  # type: ignore[arg-type]


def test_the_description_says_who_can_search_an_existing_index(tiny_bundle: Bundle, projected_bundle: Bundle) -> None:
    plain, projected = (" ".join(describe_spaces(bundle.manifest)) for bundle in (tiny_bundle, projected_bundle))
    assert "`exit03` is the source space" in plain
    assert "0x32, 1x32, 3x32 can search it as it is, with the option space=source." in projected
    assert "convert-index" in projected
    reach = [str(e.target) for e in projected_bundle.manifest.targets if reaches_source(projected_bundle.manifest, e)]
    assert reach == ["0x32", "1x32", "3x32"]


def test_bundles_of_earlier_versions_know_their_spaces(projected_bundle: Bundle) -> None:
    manifest = msgspec.structs.replace(projected_bundle.manifest, full_depth_space=None, source_space=None)
    old = Bundle(projected_bundle.path, manifest, "")
    expected = Encoder.open(projected_bundle, "1x32", space="source").encode(TEXTS)
    assert np.array_equal(Encoder.open(old, "1x32", space="source").encode(TEXTS), expected)


def test_a_matrix_is_read_as_safetensors_reads_it(projected_bundle: Bundle) -> None:
    content = read_projection(projected_bundle)
    assert content is not None
    found = read_exit_matrix(content, 3, "here")
    assert found is not None
    assert np.array_equal(found, (bundle_projections(projected_bundle) or {})[3].matrix)
    assert read_exit_matrix(content, 1, "here") is None  # this exit reads states


@pytest.mark.parametrize("content", [b"", b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\xff" * 20])
def test_a_damaged_file_of_projections_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="here is not a file of projections"):
        read_exit_matrix(content, 3, "here")


def test_a_trained_projection_is_inverted_and_a_singular_one_refused() -> None:
    matrix = np.eye(4, dtype=np.float32) + np.float32(0.1) * np.ones((4, 4), np.float32)
    assert np.abs(invert(matrix, "here") @ matrix - np.eye(4)).max() <= 1e-6
    with pytest.raises(BundleError, match="cannot be inverted"):
        invert(np.ones((4, 4), np.float32), "here")
