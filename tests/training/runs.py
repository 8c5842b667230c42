"""What the tests of whole runs share: their pictures, and what they leave."""

import json
import pathlib
import socket

import cv2
import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
#: Environment of processes whose programs run a few times: they are compiled in
#: half the time.
QUICKLY_COMPILED = {
  "JAX_PLATFORMS": "cpu",
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
}


def free_port():
  """One that nothing listens at, for processes that are to meet."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def pictures(folder, count=4, side=40):
  """Photograph-like pictures, smooth with texture."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / f"{i}.png"), image)
  return folder


def numbered_pictures(folder, count):
  """Pictures that any crop of can be told by its red."""
  for i, path in enumerate(sorted(pictures(folder, count).iterdir())):
    image = cv2.imread(str(path))
    image[..., 2] = 10 * i
    cv2.imwrite(str(path), image)
  return folder


def number_of(crop):
  """Which of `numbered_pictures` a crop, RGB, is of."""
  return int(crop[0, 0, 0]) // 10


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def final_state(workdir, step):
  """Every array of a checkpoint, read without our own code's restore."""
  import orbax.checkpoint as ocp

  path = workdir / "checkpoints" / str(step) / "state"
  # Wherever it was on the devices of other processes.
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with ocp.StandardCheckpointer() as reader:
    wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
      reader.metadata(path).item_metadata.tree,
    )
    return reader.restore(path, wanted)


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)
