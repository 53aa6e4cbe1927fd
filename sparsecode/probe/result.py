"""What a probe found, for people, notebooks and programs."""

import html
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sparsecode.probe.scores import Score


@dataclass(frozen=True)
class FeatureScores:
    """Scores of one set of features.

    Attributes
    ----------
    name : str
    n_features : int
    linear, cosine, l2 : Score or None
        The linear probe, and nearest neighbours by two metrics; None where there is none.
    C : float or None
        Chosen for the linear probe.
    seconds : float
    """

    name: str
    n_features: int
    linear: Score
    cosine: Score | None
    l2: Score | None
    C: float | None
    seconds: float


@dataclass(frozen=True)
class FewLabels:
    """The linear probe with few labels.

    Attributes
    ----------
    n_labels : int
    mean, sd : float
        Score over `n_draws` random choices of the labels; the SD is NaN for one.
    n_draws : int
    """

    n_labels: int
    mean: float
    sd: float
    n_draws: int


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """How much codes tell about labels.

    Attributes
    ----------
    metric : {"accuracy", "R²"}
        Of every score; on the test rows.
    n_train, n_test, n_neighbour_test : int
        Rows to learn from, to score on, and of these to score neighbours on.
    seed : int
    codes : FeatureScores
    k_sparse : list of (int, Score)
        Linear probes that see only the best 1, 2, 5, 10 and 20 latents.
    few_labels : list of FewLabels
    baselines : list of FeatureScores
        Chance first.
    missing : dict of str to str
        Baselines without scores, and why.
    classes : ndarray of shape (n_classes,) or None
        The labels; None for a regression.
    confusion : ndarray of shape (n_classes, n_classes) or None
        Test rows by label (down) and prediction (across) of the linear probe on the codes.
    seconds : float
    """

    metric: str
    n_train: int
    n_test: int
    n_neighbour_test: int
    seed: int
    codes: FeatureScores
    k_sparse: list[tuple[int, Score]]
    few_labels: list[FewLabels]
    baselines: list[FeatureScores]
    missing: dict[str, str]
    classes: NDArray[Any] | None
    confusion: NDArray[np.int64] | None
    seconds: float

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy for the test rows of each class; empty for a regression."""
        if self.classes is None or self.confusion is None:
            return {}
        shares = self.confusion.diagonal() / self.confusion.sum(axis=1)
        return {str(name): float(share) for name, share in zip(self.classes, shares, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: _plain(value) for name, value in vars(self).items()}
        return plain | {"per_class": _plain(self.per_class)}

    def to_json(self, indent: int | None = None) -> str:
        """JSON with all figures."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Cells of the main table: name, features, linear, cosine, L2."""
        cells = [
            (
                each.name,
                f"{each.n_features:,}" if each.n_features else "–",
                _cell(each.linear),
                _cell(each.cosine),
                _cell(each.l2),
            )
            for each in (self.codes, *self.baselines)
        ]
        return [*cells, *((name, "–", why, "", "") for name, why in self.missing.items())]

    def notes(self) -> list[str]:
        """Sentences below the table."""
        few = ", ".join(
            f"{row.mean:.3f}{'' if row.n_draws == 1 else f' ± {row.sd:.3f}'} of {row.n_labels:,}"
            for row in self.few_labels
        )
        sparse = ", ".join(f"{score.value:.3f} of {k}" for k, score in self.k_sparse)
        notes = [f"Best latents alone: {sparse}.", f"Few labels: {few}."]
        if self.per_class:
            worst = min(self.per_class, key=lambda name: self.per_class[name])
            notes.append(f"Hardest class: {worst}, {self.per_class[worst]:.3f}.")
        notes.append(
            f"{self.n_train:,} rows to learn from, {self.n_test:,} to test on "
            f"({self.n_neighbour_test:,} for neighbours), seed {self.seed}; "
            f"in brackets 95 % intervals; {self.seconds:.1f} s."
        )
        return notes

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("features", style="bold")
        table.add_column("number", justify="right")
        for name in (f"linear {self.metric}", "neighbours, cosine", "neighbours, L2"):
            table.add_column(name, no_wrap=True)
        for row in self.rows():
            table.add_row(*map(Text, row))
        return Group(table, "", *map(Text, self.notes()))

    def _repr_html_(self) -> str:
        header = ("features", "number", f"linear {self.metric}", "cosine", "L2")
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        return f"<table><tr>{head}</tr>{body}</table>{notes}"


def _cell(score: Score | None) -> str:
    return "–" if score is None else f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _plain(value: Any) -> Any:
    if isinstance(value, FeatureScores | Score | FewLabels):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
