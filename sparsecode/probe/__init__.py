"""How much codes tell about labels: linear and k-sparse probes, neighbours, baselines; no torch."""

from sparsecode.labels import read_labels, usable_labels
from sparsecode.probe.baselines import simple_baselines
from sparsecode.probe.result import FeatureScores, FewLabels, ProbeResult
from sparsecode.probe.run import probe
from sparsecode.probe.scores import Score

__all__ = [
    "FeatureScores",
    "FewLabels",
    "ProbeResult",
    "Score",
    "probe",
    "read_labels",
    "simple_baselines",
    "usable_labels",
]
