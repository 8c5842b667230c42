"""PyTorch checkpoints that are written here."""

import collections
import io
import pickletools
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.weights import read_pth, write_pth

RNG = np.random.default_rng(0)
ARRAYS = {
  "kernel": RNG.standard_normal((3, 2, 5, 1)).astype(np.float32),
  "transposed": RNG.standard_normal((4, 3)).astype(np.float32).T,
  "strided": np.arange(12, dtype=np.int64)[::3],
  "big_endian": np.arange(3, dtype=">f8"),
  "scalar": np.array(2.5),
  "empty": np.zeros((0, 3), np.float32),
  "half": np.float16([0.1, 65504]),
  "int32": np.int32([-7, 1 << 30]),
  "int16": np.int16([-7]),
  "int8": np.int8([-7]),
  "uint8": np.uint8([255]),
  "bool": np.array([True, False]),
}
VALUE = {
  "params": ARRAYS,
  "iter": 1 << 40,
  "numbers": [0, 255, 256, -1, -(1 << 31), 1 << 31, -(1 << 50), 1.5, 1e-300],
  "words": ("", "Kön", None, True, False),
  "nested": {"a": [{"b": ()}, []], 3: {}},
}


def _same(have, want):
  if isinstance(want, dict):
    assert list(have) == list(want)
    for key in want:
      _same(have[key], want[key])
  elif isinstance(want, list | tuple):
    assert type(have) is type(want)
    for one, other in zip(have, want, strict=True):
      _same(one, other)
  elif isinstance(want, np.ndarray):
    want = want.astype(want.dtype.newbyteorder("="))
    np.testing.assert_array_equal(have, want, strict=True)
  else:
    assert (type(have), have) == (type(want), want)


def test_our_reader_gives_it_back(tmp_path):
  path = tmp_path / "net.pth"
  write_pth(path, VALUE)
  _same(read_pth(path), VALUE)
  assert list(tmp_path.iterdir()) == [path]
  first = path.read_bytes()
  write_pth(path, VALUE)
  assert path.read_bytes() == first


def test_it_is_as_pickletools_and_zipfile_have_it(tmp_path):
  """An independent disassembler walks it to its end, with an empty stack."""
  path = tmp_path / "net.pth"
  write_pth(path, VALUE)
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    pickletools.dis(archive.read("archive/data.pkl"), out=io.StringIO())
    names = archive.namelist()
  storages = [f"archive/data/{i}" for i in range(len(ARRAYS))]
  assert [name for name in names if "/data/" in name] == storages
  assert {"archive/version", "archive/byteorder"} <= set(names)


def test_pytorch_gives_it_back(tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  path = tmp_path / "net.pth"
  write_pth(path, VALUE)
  for options in ({}, {"mmap": True}):
    have = torch.load(path, weights_only=True, **options)
    arrays = {key: value.numpy() for key, value in have["params"].items()}
    _same({**have, "params": arrays}, VALUE)


def test_jax_arrays_and_other_mappings(tmp_path):
  path = tmp_path / "net.pth"
  write_pth(path, collections.OrderedDict(a=jnp.arange(3.0)))
  np.testing.assert_array_equal(read_pth(path)["a"], [0, 1, 2])


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"a": [object()]}, r"\[a\]\[0\] is a object of object"),
    ({"a": np.zeros(2, np.complex64)}, r"\[a\] is a ndarray of complex64"),
    ({"a": {1, 2}}, r"\[a\] is a set of object"),
    (jnp.zeros(2, jnp.bfloat16), "the value is a .* of bfloat16"),
  ],
)
def test_what_is_no_plain_data_is_refused(tmp_path, value, message):
  with pytest.raises(ValueError, match=message):
    write_pth(tmp_path / "net.pth", value)
  assert not list(tmp_path.iterdir())


def test_places_that_take_no_file(tmp_path):
  with pytest.raises(ValueError, match="is a folder"):
    write_pth(tmp_path, {})
  with pytest.raises(FileNotFoundError, match="there is no folder"):
    write_pth(tmp_path / "gone" / "net.pth", {})
