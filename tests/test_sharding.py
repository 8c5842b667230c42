"""The mesh on one device; tests/training has the one of eight."""

import dataclasses

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
  sharding.check_batch(two, (1, 32, 32, 3))
  with pytest.raises(ValueError, match=r"33 image rows .* space=2"):
    sharding.check_batch(two, (1, 5, 33, 33, 3))


@dataclasses.dataclass(frozen=True)
class _Chip:
  """What a mesh asks of a device."""

  id: int
  process_index: int
  platform: str = "tpu"


def _mesh(shape, axes=sharding.AXES, *, axis_types=None, devices):
  found = np.empty(len(devices), object)
  found[:] = devices
  return jax.sharding.Mesh(found.reshape(shape), axes, axis_types=axis_types)


def test_a_hosts_rows_are_in_one_piece(monkeypatch):
  """A ring of 4x4 chips, as JAX lays it on a slice of four hosts."""
  ring = [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0]
  chips = [_Chip(i, host) for i, host in enumerate(ring)]
  monkeypatch.setattr(jax, "make_mesh", _mesh)
  for axes in ({}, {"fsdp": 4}):
    mesh = sharding.make_mesh(**axes, devices=chips)
    found = list(mesh.devices.flat)
    assert [x.process_index for x in found] == sorted(ring)
    # Otherwise as JAX has them.
    assert [x.id for x in found if x.process_index == 0] == [0, 1, 6, 15]
  # Neighbours in an image stay so.
  pairs = [_Chip(i, host) for i, host in enumerate((1, 1, 0, 0))]
  mesh = sharding.make_mesh(space=2, devices=pairs)
  assert [x.id for x in mesh.devices.flat] == [2, 3, 0, 1]


def test_hosts_of_other_sizes_are_refused():
  mesh = _mesh((3, 1, 1), devices=[_Chip(0, 0), _Chip(1, 0), _Chip(2, 1)])
  with pytest.raises(ValueError, match=r"have \[2, 1\] devices"):
    sharding.check_batch(mesh, (3, 8, 8, 3))
