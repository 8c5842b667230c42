"""Training: the state, the step, the loop around it."""

from sr_jax.training.checkpoints import CheckpointError, Checkpoints
from sr_jax.training.claim import BusyError
from sr_jax.training.feed import StalledError
from sr_jax.training.gan_steps import Adversarial, make_gan_step
from sr_jax.training.health import UnhealthyError
from sr_jax.training.loop import train
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import (
  make_latent_prepare,
  make_prepare,
  make_step,
)
from sr_jax.training.stopping import Stopped

__all__ = [
  "Adversarial",
  "BusyError",
  "CheckpointError",
  "Checkpoints",
  "NetState",
  "StalledError",
  "Stopped",
  "TrainState",
  "UnhealthyError",
  "make_gan_step",
  "make_latent_prepare",
  "make_optimizer",
  "make_prepare",
  "make_step",
  "train",
]
