"""Which checkpoints stay, and what a wrong request is answered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.training import CheckpointError, Checkpoints, NetState, TrainState
from sr_jax.training.checkpoints import abstract


def _state(step):
  net = NetState({"v": jnp.full((2,), float(step))}, {}, (), None)
  return TrainState(step=jnp.asarray(step, jnp.int32), generator=net)


def test_last_and_best_stay(tmp_path):
  kept = Checkpoints(tmp_path, keep_last=2, keep_best=1)
  for step, psnr in [(1, 30.0), (2, 33.0), (3, 31.0), (4, 32.0), (5, 30.5)]:
    kept.save(_state(step), {"at": step}, metrics={"psnr": psnr})
  kept.save(_state(6), {"at": 6})  # one without a figure
  kept.wait()
  assert kept.steps == [2, 5, 6]
  assert kept.latest == 6
  shapes = jax.eval_shape(lambda: _state(0))
  shardings = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes
  )
  for step in (None, 2):
    state, place = kept.restore(abstract(shapes, shardings), step)
    expected = step or 6
    assert place == {"at": expected}
    np.testing.assert_array_equal(state.generator.params["v"], expected)
    assert int(state.step) == expected
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
