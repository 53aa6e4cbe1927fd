"""Codes back to what they stand for: images in a folder, or an array."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode import files
from sparsecode.companions import model_beside
from sparsecode.errors import NoInputError, OutputError, RefusedError
from sparsecode.images import ImageOptions, encode_png
from sparsecode.progress import EncodingState
from sparsecode.storage import describe_codes, iterate_codes
from sparsecode.transformer import SparseVAETransformer

_ROWS = 1024

Progress = Callable[[EncodingState], None]
Decoded = Iterator[tuple[NDArray[Any], NDArray[np.float32]]]


def decode_file(
    codes: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Turn a file of codes into images or an array.

    Parameters
    ----------
    codes : path-like
        An ``.h5`` from ``encode``.
    output : path-like
        A folder for PNG files, each under the name of its row; or a ``.npy`` file for an array of
        shape (n_samples, n_features), float32, in the units of the data.
    model : path-like, optional
        By default the one that lies beside the codes.
    device : str, default="auto"
    overwrite : bool, default=False
        Write into a folder that is not empty, or replace a file.
    progress : callable, optional
        Called after every block of rows.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    NoInputError
        There are no codes, or no model.
    RefusedError
        The model is not that of the codes, the output is in the way, or a row's name would lead
        out of the folder.
    OutputError
        The output cannot be written.
    """
    codes, output = Path(codes), Path(output)
    described = describe_codes(codes)
    transformer = _model(codes, model, described, device)
    state = EncodingState(described["n_samples"])
    blocks = _blocks(codes, transformer, state, progress)
    try:
        if output.suffix == ".npy":
            files.check_output(output, overwrite)
            _write_array(output, blocks, (state.listed, transformer.n_features_in_))
        elif transformer.image_options_ is None:
            raise RefusedError(f"{codes} holds codes of an array; name a .npy file, not {output}")
        else:
            _write_images(
                output, blocks, ImageOptions.from_dict(transformer.image_options_), overwrite
            )
    except OSError as error:
        if isinstance(error, OutputError | NoInputError):
            raise
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    return state.done


def _model(
    codes: Path, model: str | os.PathLike[str] | None, described: dict[str, Any], device: str
) -> SparseVAETransformer:
    path = Path(model) if model is not None else model_beside(codes, described["config"])
    if path is None or not path.is_file():
        wanted = model or described["config"].get("model")
        raise NoInputError(f"the model {wanted} of {codes} is not there; name it with --model")
    transformer = SparseVAETransformer.load(path, device=device)
    k = transformer.model_.spec.n_latents
    if k != described["n_latents"]:
        raise RefusedError(
            f"{path} has {k} latents, but {codes} has {described['n_latents']}; name its own model"
        )
    return transformer


def _blocks(
    codes: Path, transformer: SparseVAETransformer, state: EncodingState, progress: Progress | None
) -> Decoded:
    for block in iterate_codes(codes, _ROWS):
        if len(block):
            yield block.names, transformer.inverse_transform(block.matrix)
            state.done += len(block)
            state.encoded = state.done
            if progress:
                progress(state)


def _write_array(output: Path, blocks: Decoded, shape: tuple[int, int]) -> None:
    temporary = files.temporary_name(output)
    try:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        start = 0
        for _, rows in blocks:
            array[start : start + len(rows)] = rows
            start += len(rows)
        array.flush()
        files.publish(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_images(output: Path, blocks: Decoded, options: ImageOptions, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise RefusedError(f"{output} is a file; name a folder, or a .npy file")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise RefusedError(f"the folder {output} is not empty; name a new one, or --overwrite")
    shape = (options.height, options.width, options.channels)
    for names, rows in blocks:
        pixels = np.rint(rows.clip(0, 1) * 255).astype(np.uint8).reshape(-1, *shape)
        for name, picture in zip(names, pixels, strict=True):
            path = _inside(output, str(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if overwrite else "xb") as file:
                file.write(encode_png(picture.squeeze(-1) if shape[2] == 1 else picture))


def _inside(folder: Path, name: str) -> Path:
    """Return where a row's image goes; a foreign file of codes may hold any name."""
    relative = PurePosixPath(name if name.lower().endswith(".png") else f"{name}.png")
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name:
        raise RefusedError(f"the row {name!r} would be written outside of {folder}")
    return folder / relative
