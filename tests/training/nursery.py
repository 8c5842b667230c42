"""Forks training processes, so that each need not import everything anew.

    python -m tests.training.nursery IMAGES STEPS

A workdir on a line of its input starts a run in it, and it answers with the
process's number. A signal's number on the next line is sent to the run (0 is
none), and when that has ended the answer is its status, as of `waitpid`.
Every batch that a run is given is told in `<workdir>.jsonl`: the process,
the time, the place in the stream after it, its images and its digest.
"""

import hashlib
import json
import os
import sys
import time

from absl import flags

from configs import quickstart
from sr_jax import data, training
from tests.training import runs


class Recorder:
  """A loader that writes down what it hands out."""

  def __init__(self, loader, file):
    self.loader, self.file = loader, file

  def __getattr__(self, name):
    return getattr(self.loader, name)

  def __iter__(self):
    return self

  def __next__(self):
    batch = next(self.loader)
    line = {
      "process": os.getpid(),
      "time": time.monotonic(),
      "place": json.dumps(self.loader.get_state()),
      "images": [runs.number_of(image) for image in batch["hr"]],
      "digest": hashlib.sha256(batch["hr"].tobytes()).hexdigest(),
    }
    os.write(self.file, f"{json.dumps(line)}\n".encode())
    return batch


def train(images, steps, workdir):
  make_loader = data.make_loader
  file = os.open(f"{workdir}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
  data.make_loader = lambda *args, **kwargs: Recorder(
    make_loader(*args, **kwargs), file
  )
  config = quickstart.get_config()
  config.model.num_features = 8
  config.data.train = config.eval.benchmarks = images
  config.data.patch_size = 16
  config.data.batch_size = 4
  config.eval.max_images = 1
  config.schedule.periods = (steps,)
  config.steps, config.log_every, config.eval_every = steps, 3, 2
  training.train(config, workdir)


def main(images, steps):
  flags.FLAGS.mark_as_parsed()
  while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
      code = 1
      try:
        train(images, int(steps), line.strip())
        code = 0
      except SystemExit as end:
        code = end.code
      except BaseException:
        sys.excepthook(*sys.exc_info())
      finally:
        os._exit(code)
    print(child, flush=True)
    os.kill(child, int(sys.stdin.readline()))
    print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
