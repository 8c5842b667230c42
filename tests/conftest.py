"""What every test runs under: precision, shape checks, a compile cache."""

import os
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator

import jax
import pytest
from jaxtyping import install_import_hook

# Shape annotations are checked here and nowhere else: every function of sr_jax
# is decorated as it is imported, so this stands before any import of it.
install_import_hook("sr_jax", "beartype.beartype")


def _cache_dir() -> str:
  """A folder for compiled programs, kept between runs where that is allowed."""
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(home) / "sr_jax" / "tests"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    usable = os.access(folder, os.W_OK)
  except OSError:
    usable = False
  return str(folder) if usable else tempfile.mkdtemp(prefix="sr_jax-tests-")


# The same sums on every machine: with AVX-512 they have another order, and of
# the recorded game of SRGAN one LeakyReLU is nearer to zero than that is.
if platform.machine() in ("x86_64", "AMD64"):
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_max_isa=AVX2"

# The goldens are float32: a TPU or GPU must not round to fewer bits here.
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", _cache_dir())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# Most tests call a program a few times: compiling it is what takes time.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
  jax.config.update("jax_disable_most_optimizations", True)


def _require_data() -> pathlib.Path:
  folder = os.environ.get("SR_JAX_DATA")
  if not folder:
    pytest.skip("SR_JAX_DATA is unset: the folder of real images and weights")
  return pathlib.Path(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
  if item.get_closest_marker("data"):
    _require_data()


@pytest.fixture
def optimized() -> Iterator[None]:
  """Programs not called before are compiled as a user's are, in twice the time.

  For what is recorded or published.
  """
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The real images and weights; the test is skipped where there are none."""
  return _require_data()


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], pathlib.Path]:
  """Finds a file of real weights; the test is skipped where there is none."""

  def find(name: str) -> pathlib.Path:
    for key, folder in (("SR_JAX_DATA", "weights"), ("SR_JAX_WEIGHTS", "")):
      path = pathlib.Path(os.environ.get(key, "")) / folder / name
      if os.environ.get(key) and path.exists():
        return path
    return pytest.skip(
      f"no {name} under SR_JAX_DATA/weights or SR_JAX_WEIGHTS, the folder that "
      "get_weights.sh fills"
    )

  return find
