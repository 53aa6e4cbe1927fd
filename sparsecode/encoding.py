"""The batch job: inputs -> model -> parts -> codes in one file, from where it was interrupted."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from sparsecode import files
from sparsecode._version import __version__
from sparsecode.codes_writer import CodesWriter
from sparsecode.encoding_job import EncodeOptions, Job, begin, output_of, prepare
from sparsecode.encoding_summary import EncodeSummary, PartFigures, summarise
from sparsecode.errors import (
    FitInterruptedWarning,
    ImageError,
    NoInputError,
    OutputError,
    RefusedError,
    StoppedError,
)
from sparsecode.file_fitting import InputOptions, Report, fit_source, image_source, surveyed
from sparsecode.images import ImageOptions
from sparsecode.merging import concatenate
from sparsecode.parts import locked, remove_parts
from sparsecode.progress import EncodingState
from sparsecode.sources import Failure, Matrix, RowBatch, Source, stacked
from sparsecode.stopping import StopRequest
from sparsecode.transformer import SparseVAETransformer

# A disk that gives other bytes back than were written is given a second chance, not a third.
_ROUNDS = 2
# Decoding costs more than encoding, so no more rows than this, evenly, tell how well codes
# reconstruct: the standard error is then some 3 % of the part that is not explained.
_DECODED_ROWS, _DECODED_AT_ONCE = 512, 256


Progress = Callable[[EncodingState], None]
"""Called after every batch."""


def encode_files(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    model: str | PathLike[str] | None = None,
    options: InputOptions | None = None,
    parameters: dict[str, Any] | None = None,
    run: EncodeOptions | None = None,
    overwrite: bool = False,
    failures: str | PathLike[str] | None = None,
    report: Report | None = None,
    detail: Report | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> EncodeSummary:
    """Encode files to one ``.h5``; without a model, train one on them first.

    Whatever ends this call early (an error, a kill, a power cut), the same call goes on where it
    was; once all is done, it does nothing.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders, image files and globs, or one array file.
    output : path-like
        The ``.h5`` file to write. Parts are kept in ``<output>.parts`` until it is whole.
    model : path-like, optional
        A model written by ``fit``. Without it, one is trained and saved beside the output.
    options : InputOptions, optional
    parameters : dict, optional
        Of :class:`SparseVAETransformer`, for training; ``device`` with a model, too.
    run : EncodeOptions, optional
    overwrite : bool, default=False
        Replace existing outputs.
    failures : path-like, optional
        JSON Lines file for the inputs that failed.
    report, detail, progress : callable, optional
        Called with sentences for people, with more of them, and with how far it is.
    stop : StopRequest, optional
        Asks to stop after the part in hand.

    Returns
    -------
    EncodeSummary

    Raises
    ------
    NoInputError, RefusedError, ModelFormatError
        Nothing is written then.
    OutputError, StoppedError
        The output is absent or as it was; what is done is kept.
    """
    start = time.monotonic()
    options, parameters, run = options or InputOptions(), parameters or {}, run or EncodeOptions()
    files.check_output(output, overwrite=True)
    with locked(output_of(output, run.shard)):
        job = prepare(inputs, output, model, options, parameters, run)
        if job.is_done() and not overwrite:
            remove_parts(job.output)
            known: dict[str, Any] = {"was_done": True, "explained_variance": None}
        else:
            begin(job, overwrite, run.resume)
            encoder = _opened(job, options, parameters, run, report)
            encoder.run(progress, stop or StopRequest())
            encoder.finish()
            if detail:
                detail(encoder.state.rates())
            known = encoder.known()
        summary = summarise(
            job.output,
            job.inputs.array is None,
            files=_written(job, failures),
            seconds=time.monotonic() - start,
            **{"zeros_held_out": None, **known},
        )
        if failures is not None:
            lines = [json.dumps(asdict(failure)) + "\n" for failure in summary.failures]
            files.write_whole(failures, "".join(lines))
        return summary


def _written(job: Job, failures: str | PathLike[str] | None) -> list[str]:
    paths = [job.output, job.model if job.trains else None, failures]
    return [str(path) for path in paths if path is not None]


@dataclass
class _PartInHand:
    """Codes of one part, until its last batch."""

    figures: PartFigures
    rows: list[tuple[csr_array, list[str], dict[str, Any]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    undecoded: list[tuple[Matrix, csr_array]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        return sum(len(names) for _, names, _ in self.rows)


class _Encoder:
    """The model and the source of a job, and how far it is."""

    def __init__(
        self,
        job: Job,
        source: Source,
        transformer: SparseVAETransformer,
        max_errors: int | None,
        report: Report | None,
    ) -> None:
        self.job = job
        self.source = source
        self.transformer = transformer.set_params(sparse_output=True)
        self.max_errors = max_errors
        self.report = report or (lambda _: None)
        self.state = EncodingState(job.n_listed)
        self.n_resumed = 0

    def run(self, progress: Progress | None, stop: StopRequest) -> None:
        """Encode the parts that are missing, until none is."""
        missing = self._count_done()
        if self.n_resumed:
            self.report(f"going on: {self.n_resumed:,} of {self.job.n_listed:,} inputs were done")
        if self.job.n_vanished:
            self.report(f"{self.job.n_vanished:,} images of the interrupted run are gone")
        for _ in range(_ROUNDS):
            self._encode(missing, progress, stop)
            missing = self._damaged()
            if not missing:
                return
            self.report(f"{len(missing)} parts are damaged and encoded again")
        raise OutputError(f"{self.job.parts.folder} gives back other bytes than were written to it")

    def finish(self) -> None:
        """Merge the parts, and put the model and the codes in place."""
        job, parts = self.job, self.job.parts
        if not self.state.done and job.shard == (1, 1):  # a shard may be empty
            remove_parts(job.output)
            raise NoInputError(f"none of the {job.n_listed:,} inputs could be read")
        merged = parts.folder / "merged.h5"
        paths = [parts.path(i) for i in range(len(job.plan.ranges))]
        concatenate(
            paths,
            merged,
            self._metadata(),
            n_latents=self.transformer.model_.spec.n_latents,
            overwrite=True,
            compression=job.plan.compression,
        )
        if job.trains:
            files.write_whole(job.model, parts.model.read_bytes())
        try:
            files.publish(merged, job.output)
        except OSError as error:
            raise OutputError(
                f"cannot write {job.output}: {error.strerror or error}; run the same command again"
            ) from error

    def known(self) -> dict[str, Any]:
        """Return what the finished file does not say, and remove the parts."""
        parts = self.job.parts
        done = (parts.done(i) for i in range(len(self.job.plan.ranges)))
        figures = reduce(
            add,
            (PartFigures.from_dict(part.figures) for part in done if part),
            PartFigures.empty(self.source.n_features),
        )
        remove_parts(self.job.output)
        return {
            "explained_variance": figures.explained_variance,
            "zeros_held_out": 1 - self.transformer.density_ if self.job.trains else None,
            "resumed": self.n_resumed,
        }

    def _count_done(self) -> list[int]:
        parts = self.job.parts
        for done in map(parts.done, range(len(self.job.plan.ranges))):
            if done is not None:
                self.state.done += done.n_rows
                self.state.failed += done.n_failed
        self.n_resumed = self.state.done + self.state.failed
        return self.job.missing()

    def _damaged(self) -> list[int]:
        parts, damaged = self.job.parts, []
        for i in range(len(self.job.plan.ranges)):
            done = parts.done(i)
            if done is None or not parts.is_whole(i, done):
                damaged.append(i)
                parts.discard(i)
                if done is not None:
                    self.state.done -= done.n_rows
                    self.state.failed -= done.n_failed
        return damaged

    def _encode(self, missing: Sequence[int], progress: Progress | None, stop: StopRequest) -> None:
        if not missing:
            return
        ranges = [self.job.plan.ranges[i] for i in missing]
        todo = iter(zip(missing, ranges, strict=True))
        number, inputs = next(todo)
        hand = self._new_part()
        # Parts are written in order by one thread, while the next one is encoded.
        with ThreadPoolExecutor(1) as writer, stop:
            writing: Future[None] | None = None
            for batch in self.source.batches(ranges):
                self._encode_batch(batch, hand)
                if progress:
                    progress(self.state)
                if batch.stop < inputs.stop:
                    continue
                self._measure(hand, 1)
                if writing:
                    writing.result()
                writing = writer.submit(self._write_part, number, hand)
                number, inputs = next(todo, (-1, range(0)))
                hand = self._new_part()
                if stop.signal and number >= 0:
                    break
            if writing:
                writing.result()
        if stop.signal and number >= 0:
            done = self.state.done + self.state.failed
            raise StoppedError(
                f"{done:,} of {self.job.n_listed:,} inputs are done; run the same command to go on",
                stop.signal,
            )

    def _new_part(self) -> _PartInHand:
        return _PartInHand(PartFigures.empty(self.source.n_features))

    def _encode_batch(self, batch: RowBatch, hand: _PartInHand) -> None:
        start = time.perf_counter()
        if batch.names:
            codes = self.transformer.transform(batch.X)
            step = max(1, self.job.n_listed // _DECODED_ROWS)
            hand.undecoded.append((batch.X[::step].copy(), codes[::step]))
            self._measure(hand, _DECODED_AT_ONCE)
        else:
            codes = csr_array((0, self.transformer.model_.spec.n_latents), dtype=np.float32)
        hand.rows.append((codes, batch.names, batch.obs))
        hand.failures += batch.failures
        state = self.state
        state.done += len(batch.names)
        state.failed += len(batch.failures)
        state.encoded += len(batch.names) + len(batch.failures)
        state.encode_seconds += time.perf_counter() - start
        state.decode_seconds = self.source.decode_seconds
        if self.max_errors is not None and state.failed > self.max_errors:
            raise ImageError(
                f"{state.failed:,} inputs failed, more than --max-errors {self.max_errors} allows "
                f"(the last: {hand.failures[-1].path}: {hand.failures[-1].reason}); what is done "
                "is kept, run again with a larger one"
            )

    def _measure(self, hand: _PartInHand, at_least: int) -> None:
        """Decode the rows that wait for it, if there are so many."""
        if sum(codes.shape[0] for _, codes in hand.undecoded) >= at_least:
            X, codes = map(stacked, zip(*hand.undecoded, strict=True))
            hand.figures.add(X, self.transformer.inverse_transform(codes))
            hand.undecoded.clear()

    def _write_part(self, number: int, hand: _PartInHand) -> None:
        start = time.perf_counter()
        parts, k = self.job.parts, self.transformer.model_.spec.n_latents
        with CodesWriter(parts.path(number), n_latents=k, overwrite=True) as writer:
            for codes, names, obs in hand.rows:
                writer.append(codes, names, obs)
            writer.finish(
                metadata={
                    "failed_path": [failure.path for failure in hand.failures],
                    "failed_reason": [failure.reason for failure in hand.failures],
                }
            )
        parts.mark(number, hand.n_rows, len(hand.failures), hand.figures.to_dict())
        self.state.write_seconds += time.perf_counter() - start

    def _metadata(self) -> dict[str, Any]:
        job, spec = self.job, self.transformer.model_.spec
        config = {
            "sparsecode_version": __version__,
            "model": job.model.name,
            "p": spec.spike_weight,
            "posterior": spec.posterior,
            "likelihood": spec.likelihood,
            "images": self.transformer.image_options_,
        }
        if job.trains:
            config["training"] = job.plan.training
        if job.shard != (1, 1):
            config["shard"] = list(job.shard)
        sha256 = job.plan.model or hashlib.sha256(job.parts.model.read_bytes()).hexdigest()
        return {"config": config, "model_sha256": sha256, "listing_sha256": job.plan.inputs}


def _opened(
    job: Job,
    options: InputOptions,
    parameters: dict[str, Any],
    run: EncodeOptions,
    report: Report | None,
) -> _Encoder:
    """Load or train the model, and open the source as it needs it; or leave nothing behind."""
    try:
        transformer = _transformer(job, options, parameters, report)
        source = _source(job, transformer, options)
        _check_fits(source, transformer, job.model)
    except BaseException:
        if not job.parts.hold_work():
            remove_parts(job.output)
        raise
    return _Encoder(job, source, transformer, run.max_errors, report)


def _transformer(
    job: Job, options: InputOptions, parameters: dict[str, Any], report: Report | None
) -> SparseVAETransformer:
    device = parameters.get("device", "auto")
    if not job.trains:
        return SparseVAETransformer.load(job.model, device=device)
    if not job.parts.model.exists():
        source: Source | None = job.inputs.array
        if job.inputs.listing:
            images = surveyed(job.inputs.listing, options, report)
            source = image_source(job.inputs.listing, images, options)
        assert source is not None  # for the type checker: inputs are one or the other
        _fit_or_leave(source, options, parameters, report).save(job.parts.model)
    return SparseVAETransformer.load(job.parts.model, device=device)


def _fit_or_leave(
    source: Source, options: InputOptions, parameters: dict[str, Any], report: Report | None
) -> SparseVAETransformer:
    # A half-trained model is worth keeping to `fit`; here it would be taken for the whole job.
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitInterruptedWarning)
        try:
            return fit_source(source, options, parameters, report)
        except FitInterruptedWarning:
            raise KeyboardInterrupt from None


def _source(job: Job, transformer: SparseVAETransformer, options: InputOptions) -> Source:
    if job.inputs.array is not None:
        return job.inputs.array
    if transformer.image_options_ is None:
        raise RefusedError(
            f"{job.model} was trained on an array, not on images; give an array file"
        )
    assert job.inputs.listing is not None  # for the type checker
    return image_source(
        job.inputs.listing, ImageOptions.from_dict(transformer.image_options_), options
    )


def _check_fits(source: Source, transformer: SparseVAETransformer, model: Path) -> None:
    if source.n_features != transformer.n_features_in_:
        raise RefusedError(
            f"the input has {source.n_features} features, but {model} was trained on "
            f"{transformer.n_features_in_}"
        )
