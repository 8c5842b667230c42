"""The mesh, and how batches and states lie on it."""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sr_jax.types import Batch

#: Batch over chips; parameters and optimizer state over chips; image rows.
AXES = ("data", "fsdp", "space")


def make_mesh(
  *,
  data: int = -1,
  fsdp: int = 1,
  space: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """The mesh of a run.

  Args:
    data: Chips that share out the batch; -1 is all that are left.
    fsdp: Chips that share out parameters, EMA and optimizer state. The batch
      is shared out over them as well.
    space: Chips that share out the rows of an image.
    devices: Every device of every host, unless given.

  Returns:
    A mesh with axes `("data", "fsdp", "space")`, on which the part of a batch
    that a host holds is in one piece, in the order of the hosts.

  Raises:
    ValueError: the product is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, space]
  if any(size < 1 for size in sizes[1:]) or (data < 1 and data != -1):
    raise ValueError(
      f"mesh data={data}, fsdp={fsdp}, space={space}: axes are positive, and "
      "data alone may be -1 (what is left)"
    )
  if data == -1:
    sizes[0] = len(devices) // (fsdp * space)
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f"mesh data={data}, fsdp={fsdp}, space={space} does not make up "
      f"{len(devices)} devices; change config.mesh"
    )
  grid = np.array(sorted(devices, key=_place)).reshape(sizes)
  # Auto axes: pixel shuffle cannot be typed under Explicit ones.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def _place(device: Any) -> tuple[int, ...]:
  """Host by host, and in each from a chip to the one beside it.

  `jax.make_mesh` asks for the shortest ways between all chips of a slice: of
  most slices it then refuses axes that part one of the torus, or lays `space`
  over several hosts. Here what shares an image lies in a host, and what shares
  parameters in one host or in hosts that follow each other.
  """
  snake: list[int] = []
  for i, x in enumerate(coords := getattr(device, "coords", ())):
    snake.append(-x if sum(coords[:i]) % 2 else x)
  return (device.process_index, *snake, device.id)


def rows_mesh(space: int) -> Mesh | None:
  """Devices of this host that share out an image's rows; None of one alone.

  Raises:
    ValueError: the host has fewer.
  """
  devices = sorted(jax.local_devices(), key=_place)
  if not 1 <= space <= len(devices):
    raise ValueError(
      f"--space={space} is not between 1 and the {len(devices)} devices of "
      "this host, which share out an image's rows; give one of these, or none"
    )
  if space == 1:
    return None
  grid = np.array(devices[:space]).reshape(1, 1, space)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def in_rows(x: Any) -> Any:
  """Images `[b, h, w, c]` with their rows shared out, inside of `on_mesh`.

  Any number of rows will do.
  """
  return jax.lax.with_sharding_constraint(x, PartitionSpec(None, "space"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same value on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
  """Images `[b, h, w, c]` over data and fsdp, rows over space.

  Clips are `[b, t, h, w, c]`; anything of another rank is split by batch.
  """
  spec: list[Any] = [None] * ndim
  spec[0] = ("data", "fsdp")
  if ndim in (4, 5) and mesh.shape["space"] > 1:
    spec[ndim - 3] = "space"
  return NamedSharding(mesh, PartitionSpec(*spec))


def whole_rows(x: Any, *, reach: int) -> Any:
  """Images `[b, h, w, c]`, whole on each device where `space` leaves too few.

  Inside of `on_mesh` alone; elsewhere, and with enough rows, x as it is.

  Args:
    x: Images or features whose rows may be shared out.
    reach: Rows that what comes next needs of the rows beside its own. Where a
      device has no more than that, XLA's partitioner (jaxlib 0.10.2) gives
      wrong results.
  """
  space = jax.sharding.get_abstract_mesh().shape.get("space", 1)
  if space == 1 or x.shape[1] > reach * space:
    return x
  free = PartitionSpec.UNCONSTRAINED
  return jax.lax.with_sharding_constraint(
    x, PartitionSpec(free, None, free, free)
  )


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, traced with the mesh known to `whole_rows`."""

  @functools.wraps(function)
  def traced(*args: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args)

  return traced


def check_batch(
  mesh: Mesh, shape: Sequence[int], *, accumulate: int = 1
) -> None:
  """Refuses a global batch of images that the mesh cannot share out.

  Args:
    mesh: Of the run.
    shape: Of all hosts' images together, or clips.
    accumulate: Parts into which the step splits the batch.

  Raises:
    ValueError: the batch or the rows do not divide, or a host would have to
      read what another one reads.
  """
  chips = mesh.shape["data"] * mesh.shape["fsdp"]
  if shape[0] % (chips * accumulate):
    parts = f" times {accumulate} parts (config.accumulate)"
    raise ValueError(
      f"batch_size {shape[0]} is not a multiple of the {chips} devices that "
      f"share it out{parts * (accumulate > 1)}; change config.data.batch_size "
      "or config.mesh"
    )
  if shape[-3] % mesh.shape["space"]:
    raise ValueError(
      f"{shape[-3]} image rows (the crop with its margin) are not a multiple "
      f"of mesh space={mesh.shape['space']}; change config.data.patch_size"
    )
  rows = mesh.devices.reshape(chips, -1)
  if any(len({d.process_index for d in row}) > 1 for row in rows):
    raise ValueError(
      f"mesh space={mesh.shape['space']} shares the rows of one image out over "
      "hosts, and each host reads whole images; space must divide the "
      f"{jax.local_device_count()} devices of a host"
    )
  each = collections.Counter(d.process_index for d in mesh.devices.flat)
  if len(set(each.values())) > 1:
    raise ValueError(
      f"the processes have {[*each.values()]} devices, and each reads the same "
      "share of a batch; give each as many"
    )


def global_batch(mesh: Mesh, batch: Batch) -> Batch:
  """One global array an entry, from each host's part of the batch."""
  return {
    key: jax.make_array_from_process_local_data(
      batch_sharding(mesh, value.ndim), np.asarray(value)
    )
    for key, value in batch.items()
  }


def state_sharding(mesh: Mesh, state: Any) -> Any:
  """Each array's largest axis that `fsdp` divides is split over it.

  Args:
    mesh: Of the run.
    state: Arrays or their shapes, any tree.

  Returns:
    The same tree of shardings.
  """

  def leaf(x: Any) -> NamedSharding:
    fsdp = mesh.shape["fsdp"]
    axes = [i for i, n in enumerate(x.shape) if n % fsdp == 0 and n >= fsdp]
    if fsdp == 1 or not axes:
      return replicated(mesh)
    spec: list[str | None] = [None] * len(x.shape)
    spec[max(axes, key=lambda i: x.shape[i])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(leaf, state)


def put(mesh: Mesh, tree: Any) -> Any:
  """A tree of NumPy arrays, the same on every host, as `state_sharding` lays.

  For what is too large to be a copy on each chip and is no state.
  """
  return jax.tree.map(
    lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]),
    tree,
    state_sharding(mesh, tree),
  )


def to_host(mesh: Mesh, tree: Any) -> Any:
  """NumPy arrays of the whole values, on every process.

  All processes must call it together: what lies on another host is gathered.
  """
  return jax.device_get(_gathered(mesh)(tree))


@functools.lru_cache(maxsize=8)
def _gathered(mesh: Mesh) -> Callable[[Any], Any]:
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))
