"""Which device to use, and with what precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_device(device: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there.

    Raises
    ------
    ValueError
        For an unknown name or a GPU that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; use 'auto', 'cpu' or 'cuda'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch sees no GPU; use 'auto' or 'cpu'")
    return resolved


@contextmanager
def matmul_precision(tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 for products and convolutions within the block, deterministically.

    Parameters
    ----------
    tf32 : bool
        True in training, where noise far above its rounding is added anyway; False wherever a
        user sees the numbers.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=False,
            deterministic=True,
            allow_tf32=tf32,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
