"""What the latents' being on or off says about labels."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sparsecode.diagnostics.matrix import Codes, checked, row_of_entry
from sparsecode.diagnostics.sparsity import activation_frequency


class LabelShares(NamedTuple):
    """How often each latent is on for each label.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        The labels, sorted.
    counts : ndarray of shape (n_classes,), int64
        Samples of each.
    shares : ndarray of shape (n_latents, n_classes), float64
        Share of the samples of a label in which the latent is on.
    """

    classes: NDArray[Any]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]


def activation_entropy(codes: Codes) -> NDArray[np.float64]:
    """Entropy of each latent's being on or off, in bits: 0 to 1.

    Returns
    -------
    ndarray of shape (n_latents,), float64
    """
    frequency = activation_frequency(codes)
    return (special.entr(frequency) + special.entr(1 - frequency)) / np.log(2)


def activation_by_label(codes: Codes, labels: ArrayLike) -> LabelShares:
    """Share of each label's samples in which each latent is on.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    labels : array-like of shape (n_samples,)
        One label for each sample, of any type that sorts.

    Returns
    -------
    LabelShares

    Raises
    ------
    ValueError
        As many labels as samples are needed.
    """
    matrix = checked(codes)
    labels = np.asarray(labels)
    if labels.shape != matrix.shape[:1]:
        raise ValueError(
            f"labels have shape {labels.shape}, but there are {matrix.shape[0]} samples; one label "
            "for each is needed"
        )
    classes, label = np.unique(labels, return_inverse=True)
    k, c = matrix.shape[1], len(classes)
    cell = matrix.indices.astype(np.int64) * c + label[row_of_entry(matrix)]
    on = np.bincount(cell, minlength=k * c).reshape(k, c)
    counts = np.bincount(label, minlength=c)
    return LabelShares(classes, counts, on / counts)


def mutual_information(codes: Codes, labels: ArrayLike) -> NDArray[np.float64]:
    """Mutual information of each latent's being on or off with the label, in bits.

    The plug-in estimate; with few samples it is biased upwards, by about
    ``(n_classes - 1) / (2 ln(2) n_samples)`` bits where there is none.

    Parameters
    ----------
    codes, labels
        As for `activation_by_label`.

    Returns
    -------
    ndarray of shape (n_latents,), float64
        0 to 1.
    """
    by_label = activation_by_label(codes, labels)
    on = by_label.shares * (by_label.counts / by_label.counts.sum())
    off = (1 - by_label.shares) * (by_label.counts / by_label.counts.sum())
    nats = -special.entr(on).sum(1) - special.entr(off).sum(1)
    nats += special.entr(on.sum(1)) + special.entr(off.sum(1))
    nats += special.entr(by_label.counts / by_label.counts.sum()).sum()
    return np.maximum(nats, 0.0) / np.log(2)
