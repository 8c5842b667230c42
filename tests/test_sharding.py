"""The mesh on one device; tests/training has the one of eight."""

import dataclasses
import itertools

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
  coords: tuple[int, ...]
  platform: str = "tpu"


def _slice(*shape, block=(2, 2, 1)):
  """Chips of hosts that have a block each, as libtpu numbers them."""
  chips = []
  for coords in np.ndindex(*shape[::-1]):
    coords = coords[::-1]  # x is the fastest
    at = [x // n for x, n in zip(coords, block, strict=True)]
    counts = [x // n for x, n in zip(shape, block, strict=True)]
    host = at[0] + counts[0] * (at[1] + counts[1] * at[2])
    chips.append(_Chip(len(chips), host, coords))
  return chips


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 4, 1), (4, 4, 4)])
def test_a_mesh_of_any_slice(shape):
  """Host after host, and in each from a chip to the one beside it."""
  chips = _slice(*shape)
  count = len(chips)
  for axes in ({}, {"space": 2}, {"space": 4}, {"fsdp": 8}, {"fsdp": count}):
    mesh = sharding.make_mesh(**axes, devices=chips[::-1])
    sharding.check_batch(mesh, (count, 8, 8, 3))
    found = list(mesh.devices.flat)
    hosts = [x.process_index for x in found]
    assert hosts == sorted(hosts)
    for a, b in itertools.pairwise(found):
      steps = np.abs(np.subtract(a.coords, b.coords)).sum()
      assert steps == 1 or a.process_index != b.process_index
  mesh = sharding.make_mesh(space=8, devices=chips)
  with pytest.raises(ValueError, match=r"space=8 shares .* out over hosts"):
    sharding.check_batch(mesh, (count, 8, 8, 3))


def test_several_slices_follow_each_other():
  """Coordinates begin anew in each."""
  first = _slice(4, 4, 1)
  second = [
    dataclasses.replace(x, id=x.id + 16, process_index=x.process_index + 4)
    for x in first
  ]
  mesh = sharding.make_mesh(fsdp=16, devices=second + first)
  assert {x.id for x in mesh.devices[0].flat} == set(range(16))


def test_hosts_of_other_sizes_are_refused():
  chips = [_Chip(i, i // 2, (i, 0, 0)) for i in range(3)]
  mesh = sharding.make_mesh(devices=chips)
  with pytest.raises(ValueError, match=r"have \[2, 1\] devices"):
    sharding.check_batch(mesh, (3, 8, 8, 3))
