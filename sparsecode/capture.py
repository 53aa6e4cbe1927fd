"""One step of training, recorded once and replayed by a GPU: CUDA graphs.

A step is some hundred kernels, each of a few microseconds, and Python takes longer to launch one
than a GPU to run it. A recording is launched as a whole.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Recording:
    """The work that a function gives to a GPU, to be repeated.

    Parameters
    ----------
    function : callable
        Of one tensor on the GPU; returns nothing. Other tensors that it reads or writes must stay
        where they are, and it may not wait for the GPU. Whatever Python does in it is done once,
        while it is recorded.
    example : Tensor
        Of the shape, type and device of every argument.
    generator : torch.Generator
        Source of the function's randomness: it goes on from one replay to the next.

    Raises
    ------
    RuntimeError
        The function cannot be recorded.
    """

    def __init__(
        self, function: Callable[[Tensor], None], example: Tensor, generator: torch.Generator
    ) -> None:
        self._argument = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            function(self._argument)

    def __call__(self, argument: Tensor) -> None:
        """Do it again, without waiting for it."""
        self._argument.copy_(argument)
        self._graph.replay()
