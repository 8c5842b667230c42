"""Weights of others and our own: torch, MATLAB, safetensors."""

from sr_jax.weights.mat import load_mat
from sr_jax.weights.native import load, save
from sr_jax.weights.torch import from_torch, to_torch

__all__ = ["from_torch", "load", "load_mat", "save", "to_torch"]
