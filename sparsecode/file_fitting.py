"""Training on files: inputs -> rows in memory -> a fitted transformer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sparsecode.errors import NoInputError, RefusedError
from sparsecode.files import check_output
from sparsecode.history_log import HistoryLog
from sparsecode.images import ImageOptions, survey
from sparsecode.inputs import Selection, list_images
from sparsecode.listing import Listing
from sparsecode.sources import ImageSource, Matrix, Source, open_array_source, read_all
from sparsecode.trainer import EpochRecord
from sparsecode.transformer import SparseVAETransformer

# Bytes of training rows held in memory; beyond them a random sample of rows trains the model.
TRAINING_BYTES = 2 << 30
_SAMPLE_SEED = 0
# Headers read to settle the size of the images; of more files, these are spread evenly.
_SURVEYED = 20_000

Report = Callable[[str], None]
"""Called with one sentence for people."""
_Listener = Callable[[EpochRecord], None]


@dataclass(frozen=True)
class InputOptions:
    """How inputs are found and read; the first five are part of a model.

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
    selection : Selection
        Which files of folders are meant.
    listed : tuple of str
        More files, each called by its path as given.
    on_error : {"skip", "fail"}
        What a broken image does.
    n_workers : int or None
        Processes that decode; None is one for each CPU, 0 none.
    time_limit : float
        Seconds that one image may take.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    exif: bool = True
    max_pixels: int = 100_000_000
    convolutional: bool = False
    selection: Selection = Selection()  # noqa: RUF009  # frozen
    listed: tuple[str, ...] = ()
    on_error: str = "skip"
    n_workers: int | None = None
    time_limit: float = 60.0

    def of_model(self) -> dict[str, Any]:
        """Return what a model depends on, as a JSON object."""
        size = None if self.size is None else list(self.size)
        names = ("channels", "exif", "max_pixels", "convolutional")
        return {"size": size} | {name: getattr(self, name) for name in names}


def open_source(
    inputs: Sequence[str | PathLike[str]],
    options: InputOptions,
    report: Report | None = None,
) -> Source:
    """Find the inputs and settle how to read them.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders, image files and globs, or one array file.
    options : InputOptions
    report : callable, optional

    Raises
    ------
    NoInputError
        Nothing to read.
    RefusedError
        Inputs that do not go together.
    """
    array = None if options.listed else open_array_source(inputs)
    if array is not None:
        return array
    listing = list_images(inputs, options.selection, options.listed)
    return image_source(listing, surveyed(listing, options, report), options)


def image_source(listing: Listing, images: ImageOptions, options: InputOptions) -> ImageSource:
    """Return the source of listed images."""
    return ImageSource(listing, images, options.on_error, options.n_workers, options.time_limit)


def surveyed(listing: Listing, options: InputOptions, report: Report | None = None) -> ImageOptions:
    """Settle size and channels by the headers of the images."""
    step = -(-len(listing) // _SURVEYED)
    looked_at = listing[::step]
    found = survey(
        [file.path for file in looked_at],
        size=options.size,
        channels=options.channels,  # type: ignore[arg-type]  # checked there
        exif=options.exif,
        max_pixels=options.max_pixels,
    )
    images = found.options
    if report and found.n_resized:
        sample = "" if step == 1 else " looked at"
        report(
            f"{found.n_resized:,} of {len(looked_at):,} images{sample} are resized to "
            f"{images.width}x{images.height} (choose with --size)"
        )
    return images


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
    images = source.options if isinstance(source, ImageSource) else None
    if options.convolutional:
        if images is None:
            raise RefusedError("convolutional networks need images, but the input is an array")
        parameters = {**parameters, "image_shape": (images.height, images.width, images.channels)}
    X = _training_rows(source, report)
    return _fitted(SparseVAETransformer(**parameters), X, source, log)


def _training_rows(source: Source, report: Report | None) -> Matrix:
    itemsize = 1 if isinstance(source, ImageSource) else 4
    n_rows = max(1, TRAINING_BYTES // (itemsize * source.n_features))
    if n_rows < source.n_listed:
        if report:
            report(f"training on a random sample of {n_rows:,} of {source.n_listed:,} rows")
        source = source.sample(n_rows, np.random.default_rng(_SAMPLE_SEED))
    return read_all(source)


def _fitted(
    transformer: SparseVAETransformer, X: Matrix, source: Source, listener: _Listener | None
) -> SparseVAETransformer:
    transformer._epoch_listener = listener
    transformer.fit(X)
    transformer._epoch_listener = None  # an open file is no part of a fitted estimator
    images = source.options if isinstance(source, ImageSource) else None
    transformer.image_options_ = None if images is None else images.to_dict()
    return transformer


def _resumed(
    model: Path,
    inputs: Sequence[str | PathLike[str]],
    options: InputOptions,
    parameters: dict[str, Any],
    report: Report | None,
    log: HistoryLog | None,
) -> SparseVAETransformer:
    """Train a saved model for the epochs that it has not had."""
    if not model.is_file():
        raise NoInputError(f"there is no model {model} to go on with; leave --resume out")
    transformer = SparseVAETransformer.load(model)
    transformer.set_params(**parameters)
    found = open_source(inputs, options, report)
    images = transformer.image_options_
    if isinstance(found, ImageSource) != (images is not None):
        raise RefusedError(f"{model} was trained on another kind of input; give the same inputs")
    if isinstance(found, ImageSource) and images is not None:
        found = image_source(found.listing, ImageOptions.from_dict(images), options)
    X = _training_rows(found, report)
    planned, n_done = transformer._planned_epochs(X.shape[0]), transformer.n_iter_
    if planned <= n_done:
        raise RefusedError(
            f"{model} has had {n_done} epochs of {planned}; name more with --max-iter"
        )
    if report:
        report(f"going on: {n_done} of {planned} epochs were done")

    def counted_on(record: EpochRecord) -> EpochRecord:
        return replace(record, epoch=record.epoch + n_done)

    history, own = transformer.history_, transformer.get_params()
    transformer.set_params(max_iter=planned - n_done, warm_start=True)
    _fitted(transformer, X, found, (lambda record: log(counted_on(record))) if log else None)
    transformer.set_params(max_iter=own["max_iter"], warm_start=own["warm_start"])
    transformer.history_ = history + [counted_on(record) for record in transformer.history_]
    transformer.n_iter_ += n_done
    return transformer


def fit_files(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    options: InputOptions | None = None,
    parameters: dict[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
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
    resume : bool, default=False
        Go on with the model that is there, for the epochs of ``max_iter`` that it has not had. Its
        weights and parameters are kept; the learning rate warms up again, and ends at 0. Give the
        same ``random_state``, which is not in the file: it chooses the rows that are held out.
    report : callable, optional
    log_dir : path-like, optional
        Folder for ``history.jsonl`` and, where TensorBoard is installed, its events.

    Returns
    -------
    SparseVAETransformer
        Fitted and saved.
    """
    options = options or InputOptions()
    check_output(output, overwrite or resume)

    def fitted(log: HistoryLog | None) -> SparseVAETransformer:
        if resume:
            return _resumed(Path(output), inputs, options, parameters or {}, report, log)
        source = open_source(inputs, options, report)
        return fit_source(source, options, parameters or {}, report, log)

    if log_dir is None:
        transformer = fitted(None)
    else:
        with HistoryLog(log_dir, overwrite) as log:
            if report and not log.has_events:
                report("no TensorBoard events: pip install 'sparsecode[tensorboard]'")
            transformer = fitted(log)
    transformer.save(output)
    return transformer
