"""Which device to use, and with what precision."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch

# Multiply-adds in one pass of a batch under which a second thread costs more than it brings; on a
# machine that is busy with other things, threads that wait for each other cost many times more.
_WORTH_SHARING = 1 << 26


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
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r} is not supported; use 'auto', 'cpu' or 'cuda'")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch sees no GPU; use 'auto' or 'cpu'")
    has_number = resolved.type == "cuda" and resolved.index is not None
    if has_number and resolved.index >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r}, but torch sees {torch.cuda.device_count()} GPU(s), numbered from "
            "0; use one of these, or 'auto'"
        )
    return resolved


# Where the precision of float32 products and convolutions is set, for each backend by itself.
_CUDNN: Any = torch.backends.cudnn
_MKLDNN: Any = torch.backends.mkldnn
_BACKENDS = (torch.backends.cuda.matmul, _CUDNN.conv, _MKLDNN.matmul, _MKLDNN.conv)


@contextmanager
def matmul_precision(reduced: bool) -> Iterator[None]:
    """Allow or forbid shorter factors in products and convolutions, deterministically.

    Parameters
    ----------
    reduced : bool
        True in training, where noise far above the rounding is added anyway: TF32 on a GPU,
        bfloat16 on a CPU that has units for it. False wherever a user sees the numbers.
    """
    before = _precision_for_all()
    with ExitStack() as stack:
        for backend in _BACKENDS:
            stack.enter_context(_set(backend, "fp32_precision", "ieee"))
        # Sets those of products, and what it sets can be read again: compiled modules do.
        stack.callback(torch.set_float32_matmul_precision, before)
        torch.set_float32_matmul_precision("medium" if reduced else "highest")
        if reduced:
            _CUDNN.conv.fp32_precision = "tf32"
        stack.enter_context(_set(_CUDNN, "deterministic", value=True))
        stack.enter_context(_set(_CUDNN, "benchmark", value=False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        # Weights change within the block, so their casts are not kept.
        casts = reduced and _casts_pay()
        stack.enter_context(
            torch.autocast("cpu", torch.bfloat16, enabled=casts, cache_enabled=False)
        )
        yield


def _precision_for_all() -> str:
    """Return what torch's setting for all backends is, or its default where that is not known."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # so it is for whoever has set that of a backend by itself
        return "highest"


@contextmanager
def _set(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute within the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@cache
def _casts_pay() -> bool:
    """Whether this CPU has units for bfloat16 that torch uses for bfloat16 alone.

    So it is with AVX-512's dot products, which make steps 1.3 to 1.6 times faster. With AMX,
    torch rounds float32 factors itself, at less cost: docs/performance.md.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") and not capabilities.get("amx_bf16"))


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that a new tensor can have: what torch keeps for later is free as well."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextmanager
def threads_for(multiply_adds: int) -> Iterator[None]:
    """Use one thread within the block if a batch is too little work to share.

    Parameters
    ----------
    multiply_adds : int
        Of one pass of a batch through the encoder.
    """
    before = torch.get_num_threads()
    if multiply_adds < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
