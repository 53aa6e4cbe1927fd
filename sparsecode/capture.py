"""Steps of training, recorded once and replayed by a GPU: CUDA graphs.

A step is some hundred kernels, each of a few microseconds, and Python takes longer to launch one
than a GPU to run it. A recording is launched as a whole.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Recording:
    """The work that a function gives to a GPU, to be repeated.

    Parameters
    ----------
    function : callable
        Of tensors on the GPU; returns nothing. Other tensors that it reads or writes must stay
        where they are, and it may not wait for the GPU. Whatever Python does in it is done once,
        while it is recorded.
    examples : sequence of Tensor
        Of the shapes, types and device of its arguments.
    generator : torch.Generator
        Source of the function's randomness: it goes on from one replay to the next.

    Raises
    ------
    RuntimeError
        The function cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[..., None],
        examples: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        self._arguments = [example.clone() for example in examples]
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            function(*self._arguments)

    def __call__(self, *arguments: Tensor) -> None:
        """Do it again, without waiting for it."""
        for recorded, argument in zip(self._arguments, arguments, strict=True):
            recorded.copy_(argument)
        self._graph.replay()
