"""JSON from files that nobody has checked."""

import json
import math
from collections import Counter
from reprlib import repr as shortened
from typing import Any

# Each separates or begins a value, so that their number bounds what parsing allocates.
MAX_ITEMS = 2**21


def parse_json(text: bytes | str) -> Any:
    """Parse JSON as it is standardised, in memory that is bounded beforehand.

    Raises
    ------
    ValueError
        It is not UTF-8 or not JSON, nested too deeply, has millions of values, the same
        key twice, or a number that is not finite.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if sum(map(text.count, "[{,")) > MAX_ITEMS:
        raise ValueError(f"it holds more than {MAX_ITEMS:,} values")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refused_constant,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a character is no text
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shortened(key)} occurs twice")
    return values


def _refused_constant(name: str) -> Any:
    raise ValueError(f"{name} in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(text)} is too large")
    return value
