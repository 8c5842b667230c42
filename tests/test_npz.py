"""Files of arrays, against NumPy's reader, and damaged ones."""

import io
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given

from sr_jax.metrics import load_prior
from sr_jax.npz import read_npz
from tests import damage

ARRAYS = {
  "c": np.arange(24.0).reshape(2, 3, 4),
  "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
  "big": np.array([1.5, -2.0], ">f4"),
  "empty": np.zeros((0, 3), np.uint8),
  "scalar": np.array(True),
}


def _file(arrays, save=np.savez):
  stream = io.BytesIO()
  save(stream, **arrays)
  return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_as_numpy_reads_it(save):
  data = _file(ARRAYS, save)
  have = read_npz(data)
  with np.load(io.BytesIO(data)) as want:
    assert list(have) == list(want)
    for key in want:
      np.testing.assert_array_equal(have[key], want[key], strict=True)


class _Evil:
  def __init__(self, mark):
    self.mark = mark

  def __reduce__(self):
    return os.mkdir, (str(self.mark),)


def test_nothing_is_executed(tmp_path):
  mark = tmp_path / "mark"
  objects = np.empty(1, object)
  objects[0] = _Evil(mark)
  with pytest.raises(ValueError, match="or not of numbers"):
    read_npz(_file({"x": objects}))
  assert not mark.exists()


def test_files_that_stand_for_much():
  zeros = _file({"x": np.zeros(1 << 24, np.uint8)}, np.savez_compressed)
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    text = repr(header).ljust(117).encode() + b"\n"
    archive.writestr("x.npy", b"\x93NUMPY\x01\x00\x76\x00" + text)
  # They would be eight times that as float64.
  rng = np.random.default_rng(0)
  narrow = rng.integers(0, 4, 1 << 22, np.int8)
  parts = {f"x{i}": part for i, part in enumerate(np.split(narrow, 8))}
  narrow = _file(parts, np.savez_compressed)
  for data in (zeros, narrow, stream.getvalue()):
    run = lambda data=data: read_npz(data)
    assert not damage.read(run, len(data)).loaded


@pytest.mark.parametrize(
  "examples", [300, pytest.param(2_100, marks=pytest.mark.slow)]
)
def test_damaged_priors(examples, tmp_path):
  path = tmp_path / "x.npz"
  prior = {
    "mu_pris_param": np.ones((1, 36)),
    "cov_pris_param": np.eye(36),
    "gaussian_window": np.ones((7, 7)) / 49,
  }
  files = [_file(prior), _file(prior, np.savez_compressed)]
  loaded = []

  @damage.seeded(examples)
  @given(damage.damaged(files))
  def each(data):
    path.write_bytes(data)
    loaded.append(damage.read(lambda: load_prior(path), len(data)).loaded)

  each()
  assert examples // 5 <= loaded.count(False)
