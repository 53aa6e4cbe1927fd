"""Sparse coders side by side at an equal number of latents and equal held-out L0."""
