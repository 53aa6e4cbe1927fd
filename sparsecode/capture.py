"""Steps of training, recorded once and replayed by a GPU: CUDA graphs.

A step is some hundred kernels, each of a few microseconds, and Python takes longer to launch one
than a GPU to run it. A recording is launched as a whole.
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Torch has but one recording under way in a process.
_ONE_AT_A_TIME = threading.Lock()


class Recorder:
    """Makes recordings on one GPU that share their memory: none keeps anything for another.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(
        self,
        function: Callable[..., None],
        examples: Sequence[Tensor],
        generator: torch.Generator,
    ) -> "Recording":
        """Record the work that a function gives to the GPU.

        Parameters
        ----------
        function : callable
            Of tensors on the GPU; returns nothing. Other tensors that it reads or writes must stay
            where they are, and it may not wait for the GPU. Whatever Python does in it is done
            once, while it is recorded.
        examples : sequence of Tensor
            Of the shapes, types and device of its arguments.
        generator : torch.Generator
            Source of the function's randomness: it goes on from one replay to the next.

        Raises
        ------
        RuntimeError
            The function cannot be recorded.
        """
        arguments = [example.clone() for example in examples]
        with _ONE_AT_A_TIME, torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            try:
                # Other threads may do as they like meanwhile.
                with torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ):
                    function(*arguments)
            finally:  # torch leaves its own stream in force when a recording fails
                torch.cuda.set_stream(current)
        return Recording(graph, arguments)


class Recording:
    """Work for a GPU, to be repeated; made by a `Recorder`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, arguments: Sequence[Tensor]) -> None:
        self._graph = graph
        self._arguments = arguments

    def __call__(self, *arguments: Tensor) -> None:
        """Do it again, without waiting for it."""
        for recorded, argument in zip(self._arguments, arguments, strict=True):
            recorded.copy_(argument)
        self._graph.replay()
