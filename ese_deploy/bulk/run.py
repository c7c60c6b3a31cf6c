"""Embedding files into files: one function for the command, for notebooks and for the workers of a cluster."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ese_deploy.bulk.embedder import Embedder, Model, column_name, describe_model
from ese_deploy.bulk.formats import Layout, format_of
from ese_deploy.bulk.job import SKIPPED, InputRecord, Job, Manifest, WorkFolder, compare_jobs
from ese_deploy.bulk.parts import Part, PartRecord, StoppedError, cut
from ese_deploy.bulk.progress import JobProgress, Meter, Report, silent_report
from ese_deploy.bulk.settings import BadRows, JobSettings
from ese_deploy.bulk.workers import PartWork, compute_here, compute_in_processes
from ese_deploy.engines import DEFAULT_ENGINE
from ese_deploy.errors import InputError
from ese_deploy.system.files import sha256_file, write_atomic
from ese_deploy.system.install import installed_version
from ese_deploy.system.threads import available_threads
from ese_deploy.texts.inputs import InputFile, find_inputs
from ese_deploy.texts.source import SourceRow, Survey, TextSource

if TYPE_CHECKING:
    from ese_deploy.bulk.on_ray import RaySettings

__all__ = ["EmbedSummary", "embed_files"]

Stop = Callable[[], bool]
_VERSION = 1
_LIBRARIES = ("ese-deploy", "numpy", "tokenizers", "onnxruntime", "openvino", "pyarrow")


class EmbedSummary(msgspec.Struct, frozen=True):
    """What a job has done.

    Attributes:
        out: the output.
        targets: the targets, and for each its embedding space and dimensions.
        rows: rows of the input.
        texts: rows with a vector.
        bad_rows: rows without one.
        distinct: different texts within windows.
        resumed_rows: rows of parts that were there.
        seconds: of this run, the first reading included.
        workers: processes.
        threads: threads of each.
        skipped_file: the file that lists bad rows; None without any.
    """

    out: str
    targets: list[str]
    spaces: list[str]
    dims: list[int]
    precision: str
    rows: int
    texts: int
    bad_rows: int
    distinct: int
    tokens: int
    truncated: int
    resumed_rows: int
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    workers: int
    threads: int
    max_seq_length: int
    skipped_file: str | None

    def cost_per_million(self, price_per_core_hour: float) -> float:
        """Cost of a million texts at this run's rate; 0 if it embedded nothing."""
        cores = self.workers * self.threads
        return cores * price_per_core_hour * 1e6 / self.texts_per_second / 3600 if self.texts_per_second else 0.0


def embed_files(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: JobSettings,
    *,
    input_format: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    ray: "RaySettings | None" = None,
    report: Report = silent_report,
    stop: Stop = lambda: False,
) -> EmbedSummary:
    """Embed the texts of files.

    The output is written in parts. Each part is complete or absent, and after an interruption ``resume`` computes the
    missing ones; the result has the same bytes as without the interruption.

    Args:
        inputs: files, folders, patterns, or ``-``; see :func:`ese_deploy.texts.inputs.find_inputs`.
        out: a name that ends in ``.parquet``, ``.jsonl`` or ``.npy``; without a suffix a folder of Parquet parts.
        settings: the targets, the fields, and the sizes of parts and windows.
        input_format: the format of the inputs, such as ``jsonl``. None: their suffixes tell.
        resume: continue a job that was interrupted.
        overwrite: replace an output that exists.
        workers: processes.
        ray: compute the parts on this Ray cluster instead.
        report: called with the progress.
        stop: asked now and then; true ends the job after the current window.

    Raises:
        InputError: an input, an option or a row is wrong, the output exists, or it cannot be written.
        BundleError: the bundle is missing or damaged.
        EngineError: the engine failed.
        StoppedError: ``stop`` returned true.

    Example:
        >>> from ese_deploy.bulk import JobSettings, ModelSettings, embed_files
        >>> model = ModelSettings(Path("exports/minilm"), targets=("3x128",))
        >>> embed_files(["texts.txt"], "vectors", JobSettings(model)).texts
        1024
    """
    began = time.monotonic()
    out = Path(out)
    if workers < 1:
        raise InputError(f"`workers` must be at least 1, got {workers}.")
    if ray is not None and workers > 1:
        raise InputError("`workers` are processes of this machine. With `ray`, name the number of actors.")
    files = find_inputs(inputs, input_format)
    form = format_of(out)
    work = WorkFolder.of(out, single=bool(out.suffix) and not (out.is_dir() and form.suffix != out.suffix))
    if any(file.path.exists() and out.exists() and file.path.samefile(out) for file in files):
        raise InputError(f"{out} is one of the inputs. Write to another file.")
    _check_output(form.suffix, settings, files, resume)
    work.check(resume, overwrite)
    finished = work.manifest() if resume else None
    old = finished.job if finished else work.job() if resume else None
    if resume and old is None:
        raise InputError(f"There is no job to resume at {out}. Leave out --resume, or pass --overwrite.")
    settings = replace(
        settings, model=replace(settings.model, threads=_threads(settings, workers, ray is not None, old))
    )
    model = describe_model(settings.model)
    source = TextSource(files, settings.fields, settings.encoding, model.embeds_empty_texts, settings.separator)
    stamps = [file.stamp() for file in files]
    inputs_read = [InputRecord(str(file.path), *_size_and_hash(file)) for file in files]
    job = _describe(settings, model, form.suffix, inputs_read)
    if old is not None:
        compare_jobs(old, job)
        survey = old.survey
    else:
        survey = None if source.stream else _survey(source, settings, report, stop)
    job = msgspec.structs.replace(job, survey=survey)
    layout = _layout(settings, model, job, source, form.suffix)
    check = _unchanged(files, stamps)
    check()
    if old is None:
        work.begin(job)
    manifest = finished
    if manifest is not None:
        meter = Meter(report, manifest.rows, manifest.rows)
    else:
        with work.locked():
            work.tidy()
            records = work.records()
            meter = Meter(report, survey.rows if survey else None, sum(item.rows for item in records.values()))
            part_work = PartWork(settings, model.dims, layout, work)
            _compute(source, part_work, records, meter, workers, ray, stop, check)
            manifest = _manifest(job, records)
            _finish(work, layout, manifest, report)
    seconds = time.monotonic() - meter.began
    return EmbedSummary(
        out=str(out),
        targets=model.targets,
        spaces=model.spaces,
        dims=model.dims,
        precision=settings.model.precision,
        rows=manifest.rows,
        texts=manifest.texts,
        bad_rows=manifest.skipped,
        distinct=manifest.distinct,
        tokens=manifest.tokens,
        truncated=manifest.truncated,
        resumed_rows=meter.before,
        seconds=round(time.monotonic() - began, 3),
        texts_per_second=round(meter.rows / seconds, 1) if meter.rows else 0.0,
        tokens_per_second=round(meter.tokens / seconds, 1) if meter.rows else 0.0,
        workers=workers,
        threads=job.threads,
        max_seq_length=model.tokenizer.max_length,
        skipped_file=str(work.beside(SKIPPED)) if manifest.skipped else None,
    )


def _compute(
    source: Iterable[SourceRow],
    work: PartWork,
    records: dict[int, PartRecord],
    meter: Meter,
    workers: int,
    ray: "RaySettings | None",
    stop: Stop,
    check: Callable[[], None],
) -> None:
    """Compute the parts that are missing, and add their records."""

    def advance(rows: int, tokens: int) -> None:
        meter.advance(rows, tokens)
        if stop():
            raise StoppedError("stopped")

    settings = work.settings
    parts = _missing(cut(_checked(source, check), settings.part_rows), records)
    try:
        if ray is not None:
            from ese_deploy.bulk.on_ray import compute_on_ray

            computed = compute_on_ray(parts, work, ray, stop, meter.advance)
        elif workers == 1:
            computed = compute_here(parts, work, Embedder.open(settings.model, settings.window), advance)
        else:
            computed = compute_in_processes(parts, work, workers, stop, meter.advance)
        for record in computed:
            records[record.index] = record
            meter.add_part(record)
    except StoppedError:
        done = len(work.work.records())
        raise StoppedError(
            f"Stopped. {done} parts are complete in {work.work.path}. Run the command with --resume to go on."
        ) from None
    check()


def _missing(parts: Iterator[Part], records: dict[int, PartRecord]) -> Iterator[Part]:
    return (part for part in parts if part.index not in records)


def _checked(rows: Iterable[SourceRow], check: Callable[[], None]) -> Iterator[SourceRow]:
    """The rows; now and then, and at the end, it is checked that the files are the same."""
    for number, row in enumerate(rows):
        if number % 4096 == 0:
            check()
        yield row
    check()


def _unchanged(files: Sequence[InputFile], stamps: Sequence[tuple[int, ...]]) -> Callable[[], None]:
    def check() -> None:
        for file, stamp in zip(files, stamps, strict=True):
            if stamp and file.stamp() != stamp:
                raise InputError(
                    f"{file.path} has changed while it was read. The output is not complete; run the command again "
                    "with --overwrite when nobody writes to the file."
                )

    return check


def _check_output(suffix: str, settings: JobSettings, files: Sequence[InputFile], resume: bool) -> None:
    """Refuse combinations that an output cannot hold.

    Raises:
        InputError: several targets or rows without a vector in .npy, all fields of a stream in Parquet, or a stream
            that is to be resumed.
    """
    streams = [file for file in files if file.stream]
    if streams and resume:
        raise InputError(
            f"{streams[0].path} is a stream, which cannot be read again. Write it to a file to use --resume."
        )
    if suffix == ".npy" and len(settings.model.targets) > 1:
        raise InputError("A .npy file has the vectors of one target. Write several to .parquet, .jsonl or a folder.")
    if suffix == ".npy" and settings.bad_rows is BadRows.NULL:
        raise InputError("A .npy file cannot have rows without a vector. Use --on-bad-row skip, or .parquet.")
    if streams and suffix == ".parquet" and settings.fields.keep is None:
        raise InputError(
            f"{streams[0].path} is a stream, whose fields are not known before. Name them: --keep-fields a,b"
        )


def _survey(source: TextSource, settings: JobSettings, report: Report, stop: Stop) -> Survey:
    def advance(rows: int) -> None:
        report(JobProgress("read", rows, None))
        if stop():
            raise StoppedError("Stopped while the input was read. Nothing was changed.")

    return source.survey(settings.bad_rows is BadRows.ERROR, advance)


def _threads(settings: JobSettings, workers: int, cluster: bool, old: Job | None) -> int:
    if settings.model.threads is not None:
        if settings.model.threads < 1:
            raise InputError(f"`threads` must be at least 1, got {settings.model.threads}.")
        return settings.model.threads
    if old is not None:
        return old.threads
    return 1 if cluster else max(1, available_threads() // workers)


def _size_and_hash(file: InputFile) -> tuple[int, str]:
    if file.stream:
        return 0, ""
    try:
        return file.path.stat().st_size, sha256_file(file.path)
    except OSError as error:
        raise InputError(f"Cannot read {file.path}: {error.strerror}.") from error


def _describe(settings: JobSettings, model: Model, suffix: str, inputs: list[InputRecord]) -> Job:
    fields = settings.fields
    found = {name: installed_version(name) for name in _LIBRARIES}
    return Job(
        version=_VERSION,
        bundle=model.bundle.path.name,
        bundle_sha256=model.bundle.sha256,
        targets=model.targets,
        spaces=model.spaces,
        index_target=settings.model.index_target,
        prompt=model.prefix,
        precision=settings.model.precision,
        engine=settings.model.engine or DEFAULT_ENGINE,
        threads=settings.model.threads or 1,
        text=fields.template.text if fields.template else fields.text,
        id_field=fields.id,
        keep_fields=None if fields.keep is None else list(fields.keep),
        encoding=settings.encoding,
        on_bad_row=settings.bad_rows.value,
        part_rows=settings.part_rows,
        window=settings.window,
        format=suffix,
        inputs=inputs,
        survey=None,
        libraries={name: version for name, version in found.items() if version},
        separator=settings.separator,
    )


def _layout(settings: JobSettings, model: Model, job: Job, source: TextSource, suffix: str) -> Layout:
    fields, survey = settings.fields, job.survey
    # Values of a stream are not known before, so that its kept fields are strings, or JSON where they are none.
    kept = survey.columns if survey else dict.fromkeys(fields.keep or (), "string")
    packed = settings.model.precision in ("binary", "ubinary")
    names = tuple(column_name(target, alone=len(model.targets) == 1) for target in model.targets)
    clash = next((name for name in names if name in kept or name == fields.id), None)
    if clash is not None and suffix == ".parquet":
        raise InputError(f"The input has a field '{clash}', which is the column of the vectors. Leave it out.")
    if suffix == ".parquet" and fields.id is None and "id" in kept:
        raise InputError("The kept field 'id' is also the name of the column of positions. Name it with --id-field id.")
    return Layout(
        id_field=fields.id,
        id_type=survey.id_type if survey else "int64" if fields.id is None else "string",
        kept=kept,
        arrow=source.arrow_types() if "arrow" in kept.values() else {},
        embeddings=names,
        widths=tuple(-(-dim // 8) if packed else dim for dim in model.dims),
        precision=settings.model.precision,
        metadata={
            name: getattr(job, name)
            for name in (
                "bundle",
                "bundle_sha256",
                "targets",
                "spaces",
                "index_target",
                "prompt",
                "precision",
                "engine",
            )
        },
        all_ids=fields.id is not None or bool(fields.keep) or settings.bad_rows is BadRows.SKIP,
    )


def _manifest(job: Job, records: dict[int, PartRecord]) -> Manifest:
    parts = [records[index] for index in sorted(records)]
    return Manifest(
        job=job,
        rows=sum(part.rows for part in parts),
        written=sum(part.written for part in parts),
        texts=sum(part.texts for part in parts),
        skipped=sum(len(part.skipped) for part in parts),
        distinct=sum(part.distinct for part in parts),
        tokens=sum(part.tokens for part in parts),
        truncated=sum(part.truncated for part in parts),
        parts=parts,
    )


def _finish(work: WorkFolder, layout: Layout, manifest: Manifest, report: Report) -> None:
    """Write the list of bad rows and the manifest; join the parts of a single file."""
    skipped = [row for part in manifest.parts for row in part.skipped]
    if skipped:
        with write_atomic(work.beside(SKIPPED)) as file:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in skipped)
    slim = msgspec.structs.replace(
        manifest,
        parts=[msgspec.structs.replace(part, skipped=[]) for part in manifest.parts] if not work.single else [],
    )
    if not work.single:
        work.write_manifest(slim)
        work.remove_records()
        return
    report(JobProgress("join", manifest.rows, manifest.rows))
    stems = [work.stem(part.index) for part in manifest.parts]
    work.write_manifest(slim)
    for suffix, save in format_of(work.out).merge(stems, layout, manifest.written).items():
        with write_atomic(work.out.with_suffix(suffix)) as file:
            save(file)
    work.remove()
