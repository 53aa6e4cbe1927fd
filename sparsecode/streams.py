"""Copies to and from a GPU that go on while it works: CUDA streams beside the one that computes."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def uploaded(parts: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Pass parts on; a GPU receives the next one while the one in hand is worked on.

    Parameters
    ----------
    parts : iterator of Tensor
        Each comes to the device, from pinned memory, when it is asked for.
    device : torch.device
        Where nothing is done on a CPU.
    """
    if device.type != "cuda":
        yield from parts
        return
    computing = torch.cuda.current_stream(device)
    copying = _copying(computing.device, "up")
    copying.wait_stream(computing)

    def fetch() -> Tensor | None:
        with torch.cuda.stream(copying):
            return next(parts, None)

    following = fetch()
    while following is not None:
        part = following
        computing.wait_stream(copying)
        part.record_stream(computing)  # its memory is in use there until the work on it is done
        following = fetch()
        yield part


def downloaded(
    items: Iterable[T], moved: Callable[[T, Callable[[Tensor], Tensor]], T], device: torch.device
) -> Iterator[T]:
    """Pass items on, their tensors in the memory of the CPU.

    Those of one item leave a GPU while the next item is made there.

    Parameters
    ----------
    items : iterable
        Made on the device when they are asked for.
    moved : callable
        Of an item and a function of a tensor: the item with each of its tensors replaced.
    device : torch.device
        Where nothing is done on a CPU.
    """
    if device.type != "cuda":
        yield from items
        return
    computing = torch.cuda.current_stream(device)
    copying = _copying(computing.device, "down")

    def to_host(tensor: Tensor) -> Tensor:
        tensor.record_stream(copying)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    earlier: tuple[T, torch.cuda.Event] | None = None
    for item in items:
        copying.wait_stream(computing)
        with torch.cuda.stream(copying):
            on_its_way = moved(item, to_host), copying.record_event()
        if earlier is not None:
            yield _arrived(*earlier)
        earlier = on_its_way
    if earlier is not None:
        yield _arrived(*earlier)


def _arrived(item: T, copied: torch.cuda.Event) -> T:
    copied.synchronize()
    return item


@cache
def _copying(device: torch.device, _: Literal["up", "down"]) -> torch.cuda.Stream:
    """Make the stream for one way, once: torch keeps the memory used on each for it alone."""
    return torch.cuda.Stream(device)
