"""Training: the state, the step, the loop around it."""

from sr_jax.training.checkpoints import CheckpointError, Checkpoints
from sr_jax.training.loop import NonFiniteError, train
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import make_prepare, make_step

#: What a user can mend: shown as one line, without a traceback.
USER_ERRORS = (ValueError, OSError, CheckpointError, NonFiniteError)

__all__ = [
  "USER_ERRORS",
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
