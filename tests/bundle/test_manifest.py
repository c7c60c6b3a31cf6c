import json
import math

import jsonschema
import msgspec
import pytest

from ese_deploy.bundle.manifest import SCHEMA_VERSION, decode_manifest, encode_manifest, json_schema
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import BundleError


def test_a_manifest_reads_back_as_it_was_written(tiny_bundle: Bundle) -> None:
    assert decode_manifest(encode_manifest(tiny_bundle.manifest), "here") == tiny_bundle.manifest


def test_the_json_schema_accepts_a_real_manifest_and_refuses_a_wrong_one(tiny_bundle: Bundle) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    manifest = json.loads(encode_manifest(tiny_bundle.manifest))
    jsonschema.validate(manifest, schema)
    manifest["targets"][0]["file"] = "../escape.onnx"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": "1"}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="is not a manifest"):
        decode_manifest(data, "here")


def test_another_schema_version_says_what_to_do() -> None:
    with pytest.raises(BundleError, match=f"reads {SCHEMA_VERSION}. Update ese-deploy"):
        decode_manifest(b'{"schema_version": 99}', "here")
    with pytest.raises(BundleError, match="Export the bundle again"):
        decode_manifest(b'{"schema_version": 0}', "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", "3"),
        ("depth", 0),
        ("targets", {}),
        ("prompts", {"a": 1}),
        ("opset", True),
        ("surprise", 1),
        ("max_seq_length", 2**63),
    ],
)
def test_a_wrong_type_or_field_is_named(tiny_bundle: Bundle, field: str, value: object) -> None:
    manifest = json.loads(encode_manifest(tiny_bundle.manifest))
    manifest[field] = value
    with pytest.raises(BundleError, match=f"does not follow the schema.*{field}"):
        decode_manifest(json.dumps(manifest).encode(), "here")


def test_what_could_not_be_read_again_is_not_written(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    quality = [msgspec.structs.replace(one, value=math.nan) for one in manifest.targets[0].quality]
    targets = [msgspec.structs.replace(manifest.targets[0], quality=quality), *manifest.targets[1:]]
    with pytest.raises(BundleError, match="the new manifest does not follow the schema"):
        encode_manifest(msgspec.structs.replace(manifest, targets=targets))
