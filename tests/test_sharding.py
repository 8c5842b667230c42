"""The mesh on one device; tests/training has the one of eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from sr_jax import sharding


def test_one_device_is_the_default():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "space": 1}
  batch = {"hr": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)}
  on_device = sharding.global_batch(mesh, batch)
  np.testing.assert_array_equal(on_device["hr"], batch["hr"])
  tree = {"a": jnp.arange(3.0)}
  host = sharding.to_host(mesh, tree)
  assert isinstance(host["a"], np.ndarray)
  np.testing.assert_array_equal(host["a"], [0, 1, 2])
  assert sharding.state_sharding(mesh, tree)["a"].spec == PartitionSpec()


def test_what_a_mesh_cannot_share_out_is_refused():
  one = jax.devices()[:1]
  for axes in [{"fsdp": 0}, {"data": 0}, {"data": -2}]:
    with pytest.raises(ValueError, match="axes are positive"):
      sharding.make_mesh(**axes, devices=one)
  with pytest.raises(ValueError, match="does not make up 1 devices"):
    sharding.make_mesh(fsdp=2, devices=one)
  mesh = sharding.make_mesh(devices=one)
  with pytest.raises(ValueError, match="batch_size 4 is not a multiple"):
    sharding.check_batch(mesh, (4, 8, 8, 3), accumulate=3)
  # As if it were two.
  two = jax.sharding.Mesh(
    np.array([one[0], one[0]]).reshape(1, 1, 2), sharding.AXES
  )
  sharding.check_batch(two, (1, 32, 32, 3), scale=2)
  with pytest.raises(ValueError, match="leaves 4 low-resolution rows"):
    sharding.check_batch(two, (1, 32, 32, 3), scale=4)
  with pytest.raises(
    ValueError, match=r"clips, .* set config\.mesh\.space to 1"
  ):
    sharding.check_batch(two, (1, 5, 256, 256, 3), scale=4)
