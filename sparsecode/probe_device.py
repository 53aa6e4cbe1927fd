"""The probes' logistic regressions on a GPU: scikit-learn's own, on torch tensors."""

import os
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sparsecode.device import free_memory, resolve_device
from sparsecode.probe.linear import Features, Solve, solve_on_cpu

ARRAY_API = "SCIPY_ARRAY_API"
"""Environment variable that SciPy reads when it is first imported."""
_MEMORY_SHARE = 0.5


def solver(device: str = "auto") -> Solve:
    """Choose where linear probes are fitted.

    Parameters
    ----------
    device : str, default="auto"
        "auto" is a GPU where there is one and SciPy's array API is on, else the CPU with sparse
        arithmetic.

    Returns
    -------
    callable
        For `sparsecode.probe.probe`. On a GPU it makes sparse features dense there; what would
        take more than half of the free memory, and ridge regressions, stay on the CPU.

    Raises
    ------
    ValueError
        The device is unknown or not there, or SciPy's array API is off.

    References
    ----------
    .. [1] scikit-learn, user guide, section "Array API support".
    """
    found = resolve_device(device)
    if found.type == "cpu":
        return solve_on_cpu
    if os.environ.get(ARRAY_API) != "1":
        if device == "auto":
            return solve_on_cpu
        raise ValueError(
            f"device={device!r} needs {ARRAY_API}=1 in the environment before SciPy is imported; "
            "set it, or use device='cpu'"
        )
    return DeviceSolver(found)


class DeviceSolver:
    """Fits on a device, and brings the weights back to numpy.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, model: Any, x: Features, y: NDArray[Any]) -> None:
        """Fit a logistic regression to features and labels; its attributes become numpy arrays."""
        if not (_takes_tensors(model) and self._has_room(x)):
            solve_on_cpu(model, x, y)
            return
        classes, numbers = np.unique(y, return_inverse=True)
        for name in ("coef_", "intercept_"):  # of the last fit: this one starts there
            if hasattr(model, name):
                setattr(model, name, self._tensor(getattr(model, name)))
        with sklearn.config_context(array_api_dispatch=True):
            model.fit(self._dense(x), self._tensor(numbers))
        model.coef_, model.intercept_ = model.coef_.cpu().numpy(), model.intercept_.cpu().numpy()
        model.classes_ = classes

    def _has_room(self, x: Features) -> bool:
        if self.device.type != "cuda":
            return True
        return x.shape[0] * x.shape[1] * 4 <= free_memory(self.device) * _MEMORY_SHARE

    def _dense(self, x: Features) -> torch.Tensor:
        if not sparse.issparse(x):
            return self._tensor(np.asarray(x, dtype=np.float32))
        coordinates = sparse.coo_array(x)
        dense = torch.zeros(x.shape, device=self.device)
        row, column = (self._tensor(part).long() for part in coordinates.coords)
        dense[row, column] = self._tensor(coordinates.data).float()
        return dense

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values, device=self.device)


def _takes_tensors(model: Any) -> bool:
    """Whether this version of scikit-learn fits the model to tensors."""
    is_logistic = isinstance(model, LogisticRegression)
    return is_logistic and bool(model.__sklearn_tags__().array_api_support)
