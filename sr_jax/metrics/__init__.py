"""Figures of merit, and the protocols without which they mean nothing."""

from sr_jax.metrics.image import psnr, ssim
from sr_jax.metrics.niqe import NiqePrior, load_prior, niqe
from sr_jax.metrics.protocol import Protocol

__all__ = ["NiqePrior", "Protocol", "load_prior", "niqe", "psnr", "ssim"]
