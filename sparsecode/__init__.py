"""Sparse codes with exact zeros, as many as you ask for.

Public names load when they are first used: ``import sparsecode`` imports neither torch nor
scikit-learn, and reading codes from a file never does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsecode._version import __version__

if TYPE_CHECKING:
    from sparsecode import diagnostics, probe
    from sparsecode.codes import SparseCodes
    from sparsecode.decoding import decode_file
    from sparsecode.displays import (
        HistoryDisplay,
        LatentDisplay,
        ReconstructionDisplay,
        SparsityDisplay,
    )
    from sparsecode.distributions import SpikeAndSlab
    from sparsecode.encoding import encode_files
    from sparsecode.file_fitting import fit_files
    from sparsecode.merging import merge_files
    from sparsecode.probing import probe_file
    from sparsecode.report import report_file
    from sparsecode.storage import iterate_codes, read_codes, verify_codes, write_codes
    from sparsecode.transformer import SparseVAETransformer

_MODULE_OF = {
    "HistoryDisplay": "displays",
    "LatentDisplay": "displays",
    "ReconstructionDisplay": "displays",
    "SparseCodes": "codes",
    "SparseVAETransformer": "transformer",
    "SparsityDisplay": "displays",
    "SpikeAndSlab": "distributions",
    "decode_file": "decoding",
    "encode_files": "encoding",
    "fit_files": "file_fitting",
    "iterate_codes": "storage",
    "merge_files": "merging",
    "probe_file": "probing",
    "report_file": "report",
    "read_codes": "storage",
    "verify_codes": "storage",
    "write_codes": "storage",
}
_SUBMODULES = {
    "baseline_models",
    "companions",
    "diagnostics",
    "decoding",
    "encoding",
    "encoding_job",
    "errors",
    "file_fitting",
    "files",
    "inputs",
    "labels",
    "merging",
    "model_view",
    "probe_device",
    "persistence",
    "probe",
    "progress",
    "report",
    "stopping",
    "storage",
}

__all__ = [
    "HistoryDisplay",
    "LatentDisplay",
    "ReconstructionDisplay",
    "SparseCodes",
    "SparseVAETransformer",
    "SparsityDisplay",
    "SpikeAndSlab",
    "__version__",
    "decode_file",
    "diagnostics",
    "encode_files",
    "fit_files",
    "iterate_codes",
    "merge_files",
    "probe",
    "probe_file",
    "read_codes",
    "report_file",
    "verify_codes",
    "write_codes",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"sparsecode.{name}")
    if name in _MODULE_OF:
        return getattr(import_module(f"sparsecode.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'sparsecode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
