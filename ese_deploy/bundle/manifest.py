"""``manifest.json`` as structs, from which its JSON Schema is made."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ese_deploy.errors import BundleError
from ese_deploy.target import Target
from ese_deploy.texts.sample import current_name

__all__ = [
    "SCHEMA_VERSION",
    "Calibration",
    "Count",
    "Fidelity",
    "FileEntry",
    "Manifest",
    "Parity",
    "Quality",
    "Quantization",
    "Sha256",
    "Source",
    "TargetEntry",
    "Tokenizer",
    "WeightsEntry",
    "decode_manifest",
    "encode_manifest",
    "json_schema",
]

SCHEMA_VERSION = 1

# The largest int64, the limit of arrays, engines and tokenizers.
_MOST = 2**63 - 1
Count = Annotated[int, Meta(ge=0, le=_MOST)]
Positive = Annotated[int, Meta(ge=1, le=_MOST)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# A plain name: no folder, drive or leading dot, and no character that is special to a file system.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}$")]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Source(_Strict, frozen=True, kw_only=True):
    """The checkpoint of a bundle."""

    model: str
    """A folder, a hub id or ``package:NAME``, as the user named it."""
    revision: str | None = None
    """Commit on the hub, or version of the package."""
    weights_sha256: Sha256
    """Hash over the checkpoint's weight files, in order of their names."""


class FileEntry(_Strict, frozen=True, kw_only=True):
    """A file of the bundle."""

    file: FileName
    bytes: Count
    sha256: Sha256


class WeightsEntry(FileEntry, frozen=True, kw_only=True):
    """The weights that all targets of one dtype share."""

    dtype: str


class Tokenizer(FileEntry, frozen=True, kw_only=True):
    """The tokenizer, and its padding."""

    pad_id: Count
    pad_type_id: Count = 0


class Parity(_Strict, frozen=True, kw_only=True):
    """The difference between a target on one engine and device and PyTorch, over the verification texts."""

    engine: str
    device: str
    versions: dict[str, str]
    max_abs: float | None = None
    """Largest absolute difference of any component; null if the target was not verified."""
    cosine_min: float | None = None
    """Lowest cosine between a vector and PyTorch's; null if the target was not verified."""
    n: Count = 0
    """Number of texts compared."""
    passed: bool | None = None
    """Null: not verified, because the exporting machine cannot run the engine."""
    emulated: bool = False
    """The engine computed in fp32 and rounded each result to the target's dtype."""


class Quality(_Strict, frozen=True, kw_only=True):
    """A quality figure of a target on one data set."""

    metric: str
    data: str
    data_sha256: Sha256
    n: Count
    """Number of texts, pairs or queries."""
    value: float
    share_of_full: float
    """The value divided by the value of the full model."""
    interval: tuple[float, float] | None = None
    """95% confidence interval of the value, by bootstrap; null where the figure has none."""
    difference: tuple[float, float] | None = None
    """95% confidence interval of the value minus that of the full model, on the same resamples; null likewise."""

    def __post_init__(self) -> None:
        """Give the sample corpus its present name, which older manifests and results do not have."""
        msgspec.structs.force_setattr(self, "data", current_name(self.data))

    @property
    def differs(self) -> bool:
        """Whether a difference from the full model can be seen; True where that is not known."""
        return self.difference is None or not self.difference[0] <= 0 <= self.difference[1]


class Calibration(_Strict, frozen=True, kw_only=True):
    """The calibration texts of a bundle."""

    file: str
    """Name of the file, without its folder."""
    sha256: Sha256
    texts: Positive


class Fidelity(_Strict, frozen=True, kw_only=True):
    """How close the vectors of a quantized target are to fp32, on texts that were not used for calibration."""

    data: str
    data_sha256: Sha256
    n: Count
    cosine_mean: float
    cosine_p01: float
    """1st percentile of the cosines between a vector and PyTorch's fp32 vector."""
    agreement: float
    """Spearman correlation between the pairwise cosines of the target and those of fp32."""
    neighbour_overlap_at_10: float
    batch_max_abs: float | None = None
    """Largest difference of any component between batch sizes, over the verification texts."""
    padding_max_abs: float | None = None
    """Largest difference of any component with more padding."""


class Quantization(_Strict, frozen=True, kw_only=True):
    """How int8 and int8-fp16 targets were made: static symmetric Q/DQ, activations per tensor, weights per channel."""

    weight_bits: Positive
    """8 needs products that are summed in 32 bits (VNNI, AMX, ARM); 7 works without."""
    data: str | None = None
    """Name of the texts that activations were calibrated on."""
    data_sha256: Sha256 | None = None
    n: Count = 0


class TargetEntry(FileEntry, frozen=True, kw_only=True):
    """One deployable graph."""

    name: str
    depth: Count
    """Number of transformer layers that run; 0 for a lookup of token vectors."""
    dim: Positive
    dtype: str
    space: str
    """The embedding space. Vectors can be compared only within one space and with equal dims."""
    trained: bool
    """Whether training named this exit."""
    weight_bytes: Count
    """Bytes of the shared weights file that this graph reads."""
    engines: list[str]
    parity: list[Parity] = []
    quality: list[Quality] = []
    fidelity: Fidelity | None = None
    """Of quantized targets only."""

    @property
    def target(self) -> Target:
        """The (depth, dim, dtype) of this entry."""
        return Target(self.depth, self.dim, self.dtype)

    @property
    def largest_difference(self) -> str:
        """The largest difference from PyTorch on any engine, as text for tables."""
        measured = [(parity.max_abs, parity.emulated) for parity in self.parity if parity.max_abs is not None]
        if not measured:
            return "not verified"
        emulated = " (emulated)" if all(emulated for _, emulated in measured) else ""
        return f"{max(value for value, _ in measured):.1e}{emulated}"


class Manifest(_Strict, frozen=True, kw_only=True):
    """Everything that is known about a bundle."""

    schema_version: int
    source: Source
    architecture: str
    """The ``model_type`` of the backbone's config."""
    depth: Positive
    """Number of transformer layers of the full model."""
    hidden_size: Positive
    width: Positive
    """Dimensions of the full embedding, after pooling."""
    pooling: str
    projection: str
    """The projection before truncation: ``prefix`` (none), ``pca``, ``aligned`` or ``trained``."""
    full_depth_space: str | None = None
    """The embedding space of the full depth, with the bundle's projections; null in bundles of earlier versions."""
    source_space: str | None = None
    """The embedding space of the full depth without them, as other tools compute it; null likewise."""
    calibration: Calibration | None = None
    """The user's texts that projections and output ranges were fitted on; null: the sample corpus."""
    projection_file: FileEntry | None = None
    """The matrices of the projections, for ``verify``; the graphs contain their own."""
    tokens: FileEntry | None = None
    """The rarity weights and token vectors that projections read, for ``verify``; null if they read neither."""
    prompts: dict[str, str]
    default_prompt_name: str | None = None
    max_seq_length: Positive
    """Longest input in tokens, special tokens included."""
    trained_exits: list[Count]
    inputs: list[str]
    output: str
    opset: Positive
    minimum_onnxruntime: str
    tool_versions: dict[str, str]
    tokenizer: Tokenizer
    config: FileEntry | None = None
    """``config.json``, by which other tools recognise the model; null in bundles of earlier versions."""
    tokenizer_config: FileEntry | None = None
    """``tokenizer_config.json``; null in bundles of earlier versions."""
    golden: FileEntry
    profiles: FileEntry | None = None
    """Budget profiles; null if the bundle was exported without."""
    quantization: Quantization | None = None
    """Of the int8 and int8-fp16 targets; null without any."""
    ranges: FileEntry | None = None
    """The ranges of the components of vectors; null in bundles of earlier versions."""
    weights: list[WeightsEntry]
    targets: list[TargetEntry]


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read the JSON text of a manifest.

    Args:
        data: the JSON text.
        where: the file's path, for the error message.

    Raises:
        BundleError: it is not JSON, has another schema version, or a value has the wrong type or form.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
    except _UNREADABLE as error:
        raise BundleError(f"{where} is not a manifest: {error}. Export the bundle again.") from None
    if version != SCHEMA_VERSION:
        advice = "Update ese-deploy." if version > SCHEMA_VERSION else "Export the bundle again."
        raise BundleError(f"{where} has schema_version {version}, this ese-deploy reads {SCHEMA_VERSION}. {advice}")
    try:
        return msgspec.json.decode(data, type=Manifest)
    except _UNREADABLE as error:
        raise BundleError(f"{where} does not follow the schema: {error}. Export the bundle again.") from None


def encode_manifest(manifest: Manifest) -> bytes:
    """The JSON text of a manifest.

    Raises:
        BundleError: a value cannot be read again, such as NaN.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    decode_manifest(data, "the new manifest")
    return data


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of ``manifest.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Manifest)}


class _Version(Struct):
    schema_version: int
