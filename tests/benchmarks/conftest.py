"""Collect nothing where the benchmarks, or what they need, are not at hand."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks" / "codes").exists() or find_spec("torchvision") is None:
    collect_ignore_glob = ["test_*.py"]
