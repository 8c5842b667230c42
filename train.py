"""Trains a recipe, or goes on with one that was stopped.

python train.py --config=configs/quickstart.py
python train.py --config=configs/fsrcnn.py:x3,muon --data_dir=/path/to/sets
python train.py --config=configs/quickstart.py --config.data.train=/my/photos
python train.py --config=configs/esrgan.py --aot=v5e:2x2

On several hosts the same command is started on each: see docs/tpu.md.

Exit codes: 0 trained to the end; 143 stopped by SIGTERM and 130 by Ctrl-C, all
that was done in a checkpoint; 2 something to mend, which the last line names;
1 it broke off, or no data came. The same command goes on.
"""

from absl import app, flags
from ml_collections import config_flags

from sr_jax import hosts
from sr_jax.training import cli

FLAGS = flags.FLAGS

config_flags.DEFINE_config_file(
  "config", None, "Recipe: configs/NAME.py, or configs/NAME.py:VARIANT."
)
flags.DEFINE_string("workdir", None, "Folder of the run; default runs/NAME.")
flags.DEFINE_string("data_dir", None, "Folder of the sets; else SR_JAX_DATA.")
flags.DEFINE_string(
  "aot", None, "Compile for this TPU topology, v5e:2x2, instead of training."
)
flags.DEFINE_bool(
  "aot_search", False, "And find the largest batch a chip that fits."
)
hosts.define_flags()


def main(_: list[str]) -> None:
  """Hands the flags over."""
  cli.main(
    FLAGS.config,
    workdir=FLAGS.workdir,
    data_dir=FLAGS.data_dir,
    aot=FLAGS.aot,
    aot_search=FLAGS.aot_search,
    **{name: getattr(FLAGS, name) for name in hosts.FLAGS},
  )


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse_flags)
