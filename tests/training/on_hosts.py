"""One process of a run on several; what it did is in `told.jsonl`.

python -m tests.training.on_hosts '{"workdir": ..., "images": ..., ...}'

A line for each batch (a hash of all of it, as the step sees it), for the state
that the run begins with, and for that it ends with.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from configs import esrgan
from sr_jax import sharding
from sr_jax.training import checkpoints, cli, evaluator, loop


def make_config(images, *, steps, mesh):
  """RRDBNet x2 against a discriminator with BatchNorm, both tiny."""
  config = esrgan.get_config("x2,smoke")
  config.steps, config.log_every, config.eval_every = steps, 1, 5
  config.data.train = config.eval.benchmarks = images
  config.data.batch_size, config.data.patch_size = 8, 16
  config.data.crops_per_image = 2
  config.eval.max_images = 3  # not a multiple of the processes
  config.keep_last = 4
  config.discriminator = ConfigDict(
    {"name": "dcgan_discriminator", "num_features": 4, "image_size": 16}
  )
  config.perceptual.weight = 0.0
  config.loss.weight = 1.0
  config.mesh.update(mesh)
  with config.unlocked():
    # Adam would blow the last digit of a small gradient up.
    config.optimizer.eps = config.d_optimizer.eps = 1e-3
  return config


def digest(mesh, tree):
  """A hash of the whole values; all processes call it together."""
  whole = jax.tree_util.tree_leaves_with_path(sharding.to_host(mesh, tree))
  found = hashlib.sha256()
  for path, leaf in whole:
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def main(
  workdir,
  images,
  steps,
  mesh,
  kill=None,
  evaluated=None,
  unread=None,
  **processes,
):
  """Runs; with `kill=(batch, step)` until then, and step's checkpoint is whole.

  That is told by what orbax writes last. With `evaluated` until the evaluation
  of that step. The checkpoint of the step `unread` cannot be read.
  """
  flags.FLAGS.mark_as_parsed()
  workdir, counts = pathlib.Path(workdir), {"batch": 0}
  global_batch = sharding.global_batch

  def tell(**what):
    if jax.process_index() == 0:
      with workdir.with_suffix(".jsonl").open("a") as file:
        file.write(json.dumps(what) + "\n")

  def told_batch(mesh, batch):
    counts["batch"] += 1
    if kill and counts["batch"] > kill[0]:
      folder = workdir / "checkpoints" / str(kill[1])
      while not (folder / "_CHECKPOINT_METADATA").exists():
        time.sleep(0.01)
      os.kill(os.getpid(), signal.SIGKILL)
    made = global_batch(mesh, batch)
    tell(batch=digest(mesh, made), rows=len(batch["hr"]))
    return made

  class Run(loop._Run):
    def _begin(self):
      state = super()._begin()
      tell(begin=digest(self.mesh, state), step=int(state.step))
      return state

    def run(self):
      results = super().run()
      tell(end=digest(self.mesh, self.state), results=results)
      return results

  evaluate = evaluator.Evaluator.evaluate

  def killed(self, variables, step, writers):
    if step == evaluated:
      os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(self, variables, step, writers)

  read = checkpoints.Checkpoints._read

  def unreadable(self, state, step):
    if step == unread:
      raise ValueError("its part is damaged")
    return read(self, state, step)

  checkpoints.Checkpoints._read = unreadable
  evaluator.Evaluator.evaluate = killed
  sharding.global_batch, loop._Run = told_batch, Run
  config = make_config(images, steps=steps, mesh=mesh)
  cli.main(config, workdir=str(workdir), data_dir=None, **processes)


if __name__ == "__main__":
  main(**json.loads(sys.argv[1]))
