"""Which checkpoints stay, and what a wrong request is answered."""

import contextlib
import json
import os
import random
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from sr_jax import sharding
from sr_jax.training import (
  CheckpointError,
  Checkpoints,
  NetState,
  TrainState,
  checkpoints,
)
from sr_jax.training.checkpoints import abstract
from tests.training import damaged_checkpoints, runs


def _state(step):
  net = NetState({"v": jnp.full((2,), float(step))}, {}, (), None)
  return TrainState(step=jnp.asarray(step, jnp.int32), generator=net)


def test_last_and_best_stay(tmp_path):
  kept = Checkpoints(tmp_path, keep_last=2, keep_best=1)
  for step, psnr in [(1, 30.0), (2, 33.0), (3, 31.0), (4, 32.0), (5, 30.5)]:
    kept.save(_state(step), {"at": step}, metrics={"psnr": psnr})
    if step == 3:  # a run that goes on knows the figures of the one before
      kept.close()
      kept = Checkpoints(tmp_path, keep_last=2, keep_best=1)
  kept.save(_state(6), {"at": 6})  # one without a figure
  kept.wait()
  assert kept.steps == [2, 5, 6]
  assert kept.latest == 6
  shapes = jax.eval_shape(lambda: _state(0))
  shardings = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes
  )
  for step in (6, 2):
    state, place = kept.restore(abstract(shapes, shardings), step)
    assert place == {"at": step}
    np.testing.assert_array_equal(state.generator.params["v"], step)
    assert int(state.step) == step
  with pytest.raises(CheckpointError, match=r"step 4 .* there are \[2, 5, 6\]"):
    kept.restore(abstract(shapes, shardings), 4)
  kept.close()


def test_the_same_step_is_saved_once(tmp_path):
  kept = Checkpoints(tmp_path)
  kept.save(_state(1), {})
  kept.wait()
  kept.save(_state(1), {})
  kept.close()
  assert kept.steps == [1]


# Of orbax's threads, when a read fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.uint8])
def test_a_bit_that_turned_is_told(tmp_path, dtype):
  """In the arrays, or in the place in the data: never another value."""
  with contextlib.closing(Checkpoints(tmp_path / "a")) as kept:
    kept.save(damaged_checkpoints.whole(dtype), {"at": 1})
    kept.wait()
  rng, told = random.Random(0), 0
  shapes = jax.eval_shape(lambda: damaged_checkpoints.whole(dtype))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = abstract(shapes, jax.tree.map(lambda _: device, shapes))
  files = [
    path
    for path in sorted((tmp_path / "a").rglob("*"))
    if path.is_file() and path.parent.name in ("d", "data")
  ]
  for path in files:
    whole = path.read_bytes()
    for _ in range(4):
      damaged = bytearray(whole)
      damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
      path.write_bytes(damaged)
      with contextlib.closing(Checkpoints(tmp_path / "a")) as kept:
        try:
          state, place = kept.restore(like, 1)
        except CheckpointError:
          told += 1
        else:  # of what is not read
          assert place == {"at": 1}
          jax.tree.map(
            np.testing.assert_array_equal,
            state,
            damaged_checkpoints.whole(dtype),
          )
    path.write_bytes(whole)
  assert told >= 8


def test_pieces_that_are_larger_than_the_whole(tmp_path):
  """What is not there compresses well."""
  with contextlib.closing(Checkpoints(tmp_path / "a")) as kept:
    kept.save(_state(1), {})
    kept.wait()
  base = f"file://{tmp_path / 'a' / '1' / 'state'}/"
  store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
  (key,) = (x for x in store.list().result() if b"params.v/.zarray" in x)
  array = json.loads(store.read(key).result().value)
  store.write(key, json.dumps({**array, "chunks": [1 << 30]})).result()
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = abstract(_state(1), jax.tree.map(lambda _: device, _state(1)))
  with (
    contextlib.closing(Checkpoints(tmp_path / "a")) as kept,
    pytest.raises(CheckpointError, match=r"\(2,\) in pieces of \(1073741824,"),
  ):
    kept.restore(like, 1)


@pytest.mark.parametrize(
  "examples", [100, pytest.param(2_100, marks=pytest.mark.slow)]
)
def test_damaged_checkpoints(tmp_path, examples):
  """Any of its files: another value is never read, and nothing hangs.

  In a process of its own, to the end of which orbax's threads complain.
  """
  command = [sys.executable, "-m", "tests.training.damaged_checkpoints"]
  out = subprocess.run(
    [*command, str(tmp_path), str(examples)],
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
    cwd=runs.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  assert out.returncode == 0, out.stdout[-3000:]
  refused = int(out.stdout.splitlines()[-1])
  assert examples // 10 <= refused < examples


def test_the_digest_is_that_of_any_sharding():
  """Restored on another mesh, a checkpoint is the same."""
  state = damaged_checkpoints.whole(jnp.float32)
  mesh = sharding.make_mesh()
  spread = jax.device_put(state, sharding.state_sharding(mesh, state))
  expected = [
    zlib.crc32(b'{"at": 1}'),
    *(
      int(
        np.asarray(x)
        .reshape(-1)
        .view({1: np.uint8}.get(x.dtype.itemsize, np.uint32))
        .sum(dtype=np.uint64)
        % 2**32
      )
      for x in jax.tree.leaves(state)
    ),
  ]
  for one in (state, spread):
    assert checkpoints._digest(one, {"at": 1}) == expected
