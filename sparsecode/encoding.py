"""The batch job: inputs -> model -> codes in one file."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sparsecode._version import __version__
from sparsecode.codes_writer import CodesWriter
from sparsecode.errors import FitInterruptedWarning, NoInputError, OutputError, RefusedError
from sparsecode.history_log import HistoryLog
from sparsecode.images import ImageOptions, survey
from sparsecode.inputs import list_images
from sparsecode.outputs import check_output
from sparsecode.sources import Failure, ImageSource, RowBatch, Source, open_array_source, read_all
from sparsecode.transformer import SparseVAETransformer

# Bytes of training rows held in memory; beyond them a random sample of rows trains the model.
TRAINING_BYTES = 2 << 30
_SAMPLE_SEED = 0

Report = Callable[[str], None]
"""Called with one sentence for people."""
Progress = Callable[[int, int, int], None]
"""Called with rows done, rows listed and failures so far."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read; the first five are part of a model.

    Attributes
    ----------
    size : (height, width) or None
        Size of the rows' images; None takes the commonest, at most 64 pixels.
    channels : {1, 3} or None
        Grey or colour; None is colour if any image is.
    exif : bool
        Apply the orientation that a camera noted.
    max_pixels : int
        Larger images are not decoded.
    convolutional : bool
        Train convolutional networks on images.
    follow_symlinks : bool
        Walk into linked folders.
    on_error : {"skip", "fail"}
        What a broken image does.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    exif: bool = True
    max_pixels: int = 100_000_000
    convolutional: bool = False
    follow_symlinks: bool = False
    on_error: str = "skip"


@dataclass(frozen=True)
class EncodeSummary:
    """What a job did.

    Attributes
    ----------
    listed, encoded, failed : int
        Inputs; ``encoded + failed == listed``.
    n_latents : int
        k.
    l0_mean, l0_sd : float
        Non-zeros per row.
    zeros_asked, zeros_got : float
        p, and the fraction of zeros.
    zeros_held_out : float or None
        The fraction on the rows that set the threshold, when a model was trained on these inputs:
        the rows that trained it have a few more zeros.
    dead_latents : int
        Latents that are zero in every row.
    explained_variance : float
        1 - (squared error of the reconstruction / squared deviation from the mean), on these rows.
    seconds : float
        Training included.
    is_images : bool
        Inputs were images, not rows of an array.
    files : list of str
        Written, the codes first.
    failures : list of Failure
        Inputs without a row.
    """

    listed: int
    encoded: int
    failed: int
    n_latents: int
    l0_mean: float
    l0_sd: float
    zeros_asked: float
    zeros_got: float
    zeros_held_out: float | None
    dead_latents: int
    explained_variance: float
    seconds: float
    is_images: bool
    files: list[str]
    failures: list[Failure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def open_source(
    inputs: Sequence[str | PathLike[str]],
    options: InputOptions,
    images: ImageOptions | None = None,
    report: Report | None = None,
) -> Source:
    """Find the inputs and settle how to read them.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders, image files and globs, or one array file.
    options : InputOptions
    images : ImageOptions, optional
        The settings of a trained model, which then decide.
    report : callable, optional

    Raises
    ------
    NoInputError
        Nothing to read.
    RefusedError
        Inputs that do not go together.
    """
    source = open_array_source(inputs)
    if source is not None:
        return source
    listing = list_images(inputs, follow_symlinks=options.follow_symlinks)
    if images is None:
        found = survey(
            [file.path for file in listing.files],
            size=options.size,
            channels=options.channels,  # type: ignore[arg-type]  # checked there
            exif=options.exif,
            max_pixels=options.max_pixels,
        )
        images = found.options
        if report and found.n_resized:
            report(
                f"{found.n_resized:,} of {len(listing):,} images are resized to "
                f"{images.width}x{images.height} (choose with --size)"
            )
    return ImageSource(listing, images, options.on_error)


def fit_source(
    source: Source,
    options: InputOptions,
    parameters: dict[str, Any],
    report: Report | None = None,
    log: HistoryLog | None = None,
) -> SparseVAETransformer:
    """Train on a source; on a random sample of its rows if they are more than 2 GiB.

    Parameters
    ----------
    source : Source
    options : InputOptions
    parameters : dict
        Of :class:`SparseVAETransformer`.
    report : callable, optional
    log : HistoryLog, optional
        Gets the record of each epoch as it ends.
    """
    itemsize = 1 if isinstance(source, ImageSource) else 4
    n_rows = max(1, TRAINING_BYTES // (itemsize * source.n_features))
    if n_rows < source.n_listed:
        if report:
            report(f"training on a random sample of {n_rows:,} of {source.n_listed:,} rows")
        source = source.sample(n_rows, np.random.default_rng(_SAMPLE_SEED))
    images = source.options if isinstance(source, ImageSource) else None
    if options.convolutional:
        if images is None:
            raise RefusedError("convolutional networks need images, but the input is an array")
        parameters = {**parameters, "image_shape": (images.height, images.width, images.channels)}
    X = read_all(source)
    transformer = SparseVAETransformer(**parameters)
    transformer._epoch_listener = log
    transformer.fit(X)
    transformer._epoch_listener = None  # an open file is no part of a fitted estimator
    transformer.image_options_ = None if images is None else images.to_dict()
    return transformer


def fit_files(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    options: InputOptions | None = None,
    parameters: dict[str, Any] | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    log_dir: str | PathLike[str] | None = None,
) -> SparseVAETransformer:
    """Train on files and save the model.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders, image files and globs, or one array file.
    output : path-like
        The ``.safetensors`` file to write.
    options : InputOptions, optional
    parameters : dict, optional
        Of :class:`SparseVAETransformer`.
    overwrite : bool, default=False
        Replace an existing output.
    report : callable, optional
    log_dir : path-like, optional
        Folder for ``history.jsonl`` and, where TensorBoard is installed, its events.

    Returns
    -------
    SparseVAETransformer
        Fitted and saved.
    """
    options = options or InputOptions()
    check_output(output, overwrite)
    source = open_source(inputs, options, report=report)
    if log_dir is None:
        transformer = fit_source(source, options, parameters or {}, report)
    else:
        with HistoryLog(log_dir, overwrite) as log:
            if report and not log.has_events:
                report("no TensorBoard events: pip install 'sparsecode[tensorboard]'")
            transformer = fit_source(source, options, parameters or {}, report, log)
    transformer.save(output)
    return transformer


def encode_files(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    model: str | PathLike[str] | None = None,
    options: InputOptions | None = None,
    parameters: dict[str, Any] | None = None,
    overwrite: bool = False,
    failures: str | PathLike[str] | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> EncodeSummary:
    """Encode files to one ``.h5``; without a model, train one on them first.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders, image files and globs, or one array file.
    output : path-like
        The ``.h5`` file to write.
    model : path-like, optional
        A model written by ``fit``. Without it, one is trained and saved beside the output.
    options : InputOptions, optional
    parameters : dict, optional
        Of :class:`SparseVAETransformer`, for training; ``device`` with a model, too.
    overwrite : bool, default=False
        Replace existing outputs.
    failures : path-like, optional
        JSON Lines file for the inputs that failed.
    report, progress : callable, optional

    Returns
    -------
    EncodeSummary

    Raises
    ------
    NoInputError, RefusedError, ModelFormatError, OutputError
        Nothing is written then, except a model that had been trained.
    """
    start = time.monotonic()
    options, parameters = options or InputOptions(), parameters or {}
    check_output(output, overwrite)
    files = [str(output)]
    if model is None:
        model_path = Path(output).with_suffix(".safetensors")
        check_output(model_path, overwrite)
        source = open_source(inputs, options, report=report)
        transformer = _fit_or_leave(source, options, parameters, report)
        transformer.save(model_path)
        files.append(str(model_path))
    else:
        model_path = Path(model)
        transformer = _load(model_path, parameters.get("device", "auto"))
        images = transformer.image_options_
        settings = None if images is None else ImageOptions.from_dict(images)
        source = open_source(inputs, options, settings, report)
        _check_fits(source, transformer, model_path)
    totals = _write(source, transformer, model_path, Path(output), overwrite, progress)
    if failures is not None:
        _write_failures(Path(failures), totals.failures)
        files.append(str(failures))
    return totals.summary(source, transformer, model is None, time.monotonic() - start, files)


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


def _load(path: Path, device: str) -> SparseVAETransformer:
    if not path.is_file():
        raise NoInputError(f"the model {path} does not exist")
    return SparseVAETransformer.load(path, device=device)


def _check_fits(source: Source, transformer: SparseVAETransformer, model: Path) -> None:
    if isinstance(source, ImageSource) and transformer.image_options_ is None:
        raise RefusedError(f"{model} was trained on an array, not on images; give an array file")
    if source.n_features != transformer.n_features_in_:
        raise RefusedError(
            f"the input has {source.n_features} features, but {model} was trained on "
            f"{transformer.n_features_in_}"
        )


class _Totals:
    """Running figures of a job, in memory of the size of one row per row and latent."""

    def __init__(self, n_latents: int, n_features: int) -> None:
        self.l0: list[np.ndarray] = []
        self.fired = np.zeros(n_latents, np.int64)
        self.sum = np.zeros(n_features)
        self.squares = self.error = 0.0
        self.failures: list[Failure] = []

    def add(self, X: np.ndarray, codes: sparse.csr_array, decoded: np.ndarray) -> None:
        self.l0.append(np.diff(codes.indptr))
        self.fired += np.bincount(codes.indices, minlength=len(self.fired))
        self.sum += X.sum(0)
        self.squares += float((X**2).sum())
        self.error += float(((X - decoded) ** 2).sum())

    def summary(
        self,
        source: Source,
        transformer: SparseVAETransformer,
        is_trained: bool,
        seconds: float,
        files: list[str],
    ) -> EncodeSummary:
        l0 = np.concatenate(self.l0)
        k = len(self.fired)
        variation = self.squares - float((self.sum**2).sum()) / len(l0)
        return EncodeSummary(
            listed=source.n_listed,
            encoded=len(l0),
            failed=len(self.failures),
            n_latents=k,
            l0_mean=float(l0.mean()),
            l0_sd=float(l0.std()),
            zeros_asked=float(transformer.p),
            zeros_got=float(1 - l0.mean() / k),
            zeros_held_out=1 - transformer.density_ if is_trained else None,
            dead_latents=int((self.fired == 0).sum()),
            explained_variance=1 - self.error / variation if variation > 0 else float("nan"),
            seconds=seconds,
            is_images=isinstance(source, ImageSource),
            files=files,
            failures=self.failures,
        )


def _write(
    source: Source,
    transformer: SparseVAETransformer,
    model_path: Path,
    output: Path,
    overwrite: bool,
    progress: Progress | None,
) -> _Totals:
    k = transformer.model_.spec.n_latents
    totals = _Totals(k, source.n_features)
    transformer.set_params(sparse_output=True)
    n_encoded = 0
    with CodesWriter(output, n_latents=k, overwrite=overwrite) as writer:
        for batch in source.batches():
            totals.failures += batch.failures
            if batch.names:
                codes = transformer.transform(batch.X)
                totals.add(_dense(batch), codes, transformer.inverse_transform(codes))
                writer.append(codes, batch.names, batch.obs)
                n_encoded += len(batch.names)
            if progress:
                progress(n_encoded, source.n_listed, len(totals.failures))
        if not n_encoded:
            raise NoInputError(f"none of the {source.n_listed} inputs could be read")
        writer.finish(metadata=_metadata(source, transformer, model_path, totals.failures))
    return totals


def _dense(batch: RowBatch) -> np.ndarray:
    X: Any = batch.X
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    return X / 255.0 if X.dtype == np.uint8 else X.astype(np.float64)


def _metadata(
    source: Source,
    transformer: SparseVAETransformer,
    model_path: Path,
    failures: list[Failure],
) -> dict[str, Any]:
    spec = transformer.model_.spec
    return {
        "config": {
            "sparsecode_version": __version__,
            "model": model_path.name,
            "p": spec.spike_weight,
            "posterior": spec.posterior,
            "likelihood": spec.likelihood,
            "images": transformer.image_options_,
        },
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
        "listing_sha256": source.sha256,
        "failed_path": [failure.path for failure in failures],
        "failed_reason": [failure.reason for failure in failures],
    }


def _write_failures(path: Path, failures: list[Failure]) -> None:
    try:
        with path.open("w", encoding="utf-8") as file:
            for failure in failures:
                file.write(json.dumps(asdict(failure)) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
