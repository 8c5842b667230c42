"""Weights of others and our own: torch, MATLAB, ncnn, VGG19, safetensors."""

from sr_jax.weights.interpolation import interpolate
from sr_jax.weights.mat import load_mat
from sr_jax.weights.native import check_scale, load, save, torch_checkpoint
from sr_jax.weights.ncnn import read_ncnn
from sr_jax.weights.ncnn_networks import load_ncnn
from sr_jax.weights.pth import is_pth, read_pth
from sr_jax.weights.recognise import recognise
from sr_jax.weights.shipped import SHIPPED, locate
from sr_jax.weights.torch import from_torch, matching_from_torch, to_torch
from sr_jax.weights.vgg import load_vgg19
from sr_jax.weights.write_pth import write_pth

__all__ = [
  "SHIPPED",
  "check_scale",
  "from_torch",
  "interpolate",
  "is_pth",
  "load",
  "load_mat",
  "load_ncnn",
  "load_vgg19",
  "locate",
  "matching_from_torch",
  "read_ncnn",
  "read_pth",
  "recognise",
  "save",
  "to_torch",
  "torch_checkpoint",
  "write_pth",
]
