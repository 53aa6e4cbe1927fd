"""Measures of a code matrix: pure functions of CSR (or dense) codes, without torch."""

from sparsecode.diagnostics.sparsity import (
    activation_frequency,
    always_on_latents,
    dead_latents,
    density,
    hoyer_sparsity,
    l0,
    l0_per_row,
)

__all__ = [
    "activation_frequency",
    "always_on_latents",
    "dead_latents",
    "density",
    "hoyer_sparsity",
    "l0",
    "l0_per_row",
]
