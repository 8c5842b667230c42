"""Reads damaged checkpoints, and says how many were refused.

python -m tests.training.damaged_checkpoints FOLDER EXAMPLES
"""

import contextlib
import pathlib
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sr_jax.training import CheckpointError, Checkpoints, NetState, TrainState
from sr_jax.training.checkpoints import abstract
from tests import damage

#: Bytes that reading any number of damaged checkpoints may take.
_ROOM = 1 << 29


def whole(dtype):
  """A state of every kind of array."""
  net = NetState(
    {"v": jnp.arange(600, dtype=dtype).reshape(20, 30)},
    {"seen": jnp.asarray([True, False]), "count": jnp.arange(3)},
    (),
    None,
  )
  return TrainState(step=jnp.asarray(1, jnp.int32), generator=net)


def _most_memory():
  """Bytes that the process has had, what is not Python's among them."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(folder, examples):
  """Fails where something is read that was not saved, or another error told."""
  folder = pathlib.Path(folder) / "a"
  saved = whole(jnp.float32)
  with contextlib.closing(Checkpoints(folder)) as kept:
    kept.save(saved, {"at": 1}, metrics={"psnr": 30.0})
    kept.wait()
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = abstract(saved, jax.tree.map(lambda _: device, saved))
  files = {
    path: path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
  refused = []

  def check():
    with contextlib.closing(Checkpoints(folder)) as kept:
      state, place = kept.restore(like, 1)
    assert place == {"at": 1}
    jax.tree.map(np.testing.assert_array_equal, state, saved)

  @damage.seeded(examples)
  @given(st.data())
  def each(data):
    path = data.draw(st.sampled_from(list(files)))
    path.write_bytes(data.draw(damage.damaged([files[path]])))
    started = time.process_time()
    try:
      check()
    except CheckpointError as error:
      refused.append(error)
    finally:
      for again, content in files.items():
        again.write_bytes(content)
      for renamed in list(folder.rglob("*.damaged")):
        renamed.unlink()
    assert time.process_time() - started < damage.SECONDS

  check()
  before = _most_memory()
  each()
  # Of a checkpoint of some kilobytes; what threads and programs take is in it.
  assert _most_memory() - before < _ROOM
  for name in ("_CHECKPOINT_METADATA", "metrics/metrics"):
    (folder / "1" / name).write_text("[" * 100_000)
    check()  # neither is needed
  print(len(refused))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))
