"""Trains a recipe: python train.py --config=configs/quickstart.py."""

import sys

from absl import app, flags
from etils import epath
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Recipe, configs/NAME.py or configs/NAME.py:VARIANT."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; runs/<config.name> where not given."
)


def main(argv: list[str]) -> None:
  """Parses the flags, and hands over."""
  if len(argv) > 1:
    raise app.UsageError(f"not a flag: {argv[1:]}")
  if _CONFIG.value is None:
    raise app.UsageError("give a recipe: --config=configs/quickstart.py")
  # Imported late: --help and a mistyped flag should not wait for JAX.
  from sr_jax import training

  config = _CONFIG.value
  workdir = epath.Path(_WORKDIR.value or f"runs/{config.name}")
  try:
    training.train(config, workdir)
  except training.USER_ERRORS as error:
    sys.exit(f"train.py: {error}")


if __name__ == "__main__":
  app.run(main)
