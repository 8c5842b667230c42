"""Mixed weights against NumPy in float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.models import FSRCNN, SRResNet
from sr_jax.weights import interpolate, tree

_NET = SRResNet(scale=2, num_features=3, num_blocks=1)


def _random(seed):
  """Variables of a network with BatchNorm, the statistics not at rest."""
  rng = np.random.default_rng(seed)
  return tree.unflatten(
    {
      path: np.asarray(rng.integers(1, 1000), np.int32)
      if path.endswith("count")
      else rng.normal(size=shape).astype(np.float32)
      for path, shape in tree.shapes(_NET).items()
    }
  )


@pytest.fixture(scope="module")
def pair():
  return _random(0), _random(1)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1 / 3])
def test_mixture(pair, alpha):
  a, b = (tree.flatten(variables) for variables in pair)
  mixed = tree.flatten(interpolate(pair[0], pair[1], alpha))
  assert mixed.keys() == a.keys()
  counts = [path for path in a if path.endswith("count")]
  assert counts
  for path in counts:
    np.testing.assert_array_equal(mixed[path], a[path])
    assert mixed[path].dtype == np.int32
  for path in a.keys() - counts:
    expected = a[path] + alpha * (np.float64(b[path]) - np.float64(a[path]))
    assert mixed[path].dtype == np.float32
    # Of a fifth or a third many are halfway between two float32.
    np.testing.assert_array_max_ulp(mixed[path], expected.astype("f4"), 1)
  assert any(path.startswith("batch_stats") for path in a.keys() - counts)


def test_the_ends_are_exact(pair):
  for alpha, one in zip((0, 1, 0.0, 1.0), pair * 2, strict=True):
    jax.tree.map(
      np.testing.assert_array_equal, interpolate(pair[0], pair[1], alpha), one
    )
  # Where the other end is ruined, it does not show.
  good, bad = {"w": jnp.ones(2)}, {"w": jnp.array([jnp.inf, jnp.nan])}
  np.testing.assert_array_equal(interpolate(good, bad, 0)["w"], np.ones(2))
  np.testing.assert_array_equal(interpolate(bad, good, 1)["w"], np.ones(2))


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_the_result_is_float32(alpha):
  half = {"w": jnp.full(2, 0.5, jnp.bfloat16)}
  mixed = interpolate(half, {"w": jnp.full(2, 0.5)}, alpha)["w"]
  assert mixed.dtype == jnp.float32
  np.testing.assert_array_equal(mixed, np.full(2, 0.5))


def test_a_mixture_is_a_network_between_the_two():
  """A network that is linear in its last layer: the pictures mix alike."""
  net = FSRCNN(scale=2, num_features=3, shrink_features=2, num_blocks=1)
  rng = np.random.default_rng(0)
  variables = tree.unflatten(
    {
      key: rng.normal(scale=0.2, size=shape)
      for key, shape in tree.shapes(net).items()
    }
  )
  other = jax.tree.map(lambda x: x, variables)
  other["params"]["deconv"] = jax.tree.map(
    lambda x: x + 1, other["params"]["deconv"]
  )
  lr = jax.random.uniform(jax.random.key(1), (1, 5, 6, 1))
  sr = jax.jit(net.apply)
  first, second = (np.float64(sr(x, lr)) for x in (variables, other))
  mixed = sr(interpolate(variables, other, 0.25), lr)
  np.testing.assert_allclose(mixed, 0.75 * first + 0.25 * second, atol=1e-5)


@pytest.mark.parametrize(
  "alpha", [-0.1, 1.5, float("nan"), float("inf"), -float("inf")]
)
def test_alpha_outside_the_range(alpha):
  with pytest.raises(ValueError, match=r"alpha \S+ is not in \[0, 1\]"):
    interpolate({}, {}, alpha)


def test_two_networks_are_refused():
  a = {"params": {"one": jnp.zeros((2, 3)), "two": jnp.zeros(1)}}
  b = {"params": {"one": jnp.zeros((3, 2)), "three": jnp.zeros(1)}}
  with pytest.raises(ValueError, match="b does not fit a") as error:
    interpolate(a, b, 0.5)
  for part in (
    "missing: params/two",
    "unexpected: params/three",
    "params/one is (3, 2), not (2, 3)",
  ):
    assert part in str(error.value)
