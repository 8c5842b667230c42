"""Training: the state, the step, the loop around it."""

from sr_jax.training.checkpoints import CheckpointError, Checkpoints
from sr_jax.training.loop import NonFiniteError, train
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import make_prepare, make_step

__all__ = [
  "CheckpointError",
  "Checkpoints",
  "NetState",
  "NonFiniteError",
  "TrainState",
  "make_optimizer",
  "make_prepare",
  "make_step",
  "train",
]
