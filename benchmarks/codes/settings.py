"""Settings of every tuned rival, one for each point.

Still empty: the search has not been finished, and each grid's first value is used. To be chosen by
``python -m benchmarks.codes tune --data-dir ../shared/data``: MNIST, seed 0, mean squared error on
the validation rows, probe accuracy where errors are within 1 % of each other; every trial is in
``benchmarks/results/codes_tuning.jsonl``. The same settings serve Fashion-MNIST.
"""

from typing import Any

from benchmarks.codes.protocol import Method, Point

POINTS = (Point(64, 13), Point(512, 26), Point(1000, 25))

CHOSEN: dict[str, dict[Point, dict[str, Any]]] = {}


def settings_for(method: Method, point: Point | None) -> dict[str, Any]:
    """Return what was chosen for the point; else the first value of each knob of the grid."""
    start = {name: values[0] for name, values in method.grid.items()}
    chosen = CHOSEN.get(method.settings_name, {})
    return {**start, **(chosen.get(point, {}) if point else {})}
