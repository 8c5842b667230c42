"""PyTorch checkpoints: values, what is refused, and damage."""

import collections
import json
import os
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from sr_jax.weights import is_pth, plain_pickle, read_pth
from tests.weights import pth_bytes
from tests.weights.pth_bytes import Raw, tensor

RNG = np.random.default_rng(3)
ARRAYS = {
  "float32": RNG.standard_normal((2, 3, 4)).astype(np.float32),
  "float64": RNG.standard_normal((3, 1)),
  "float16": RNG.standard_normal(5).astype(np.float16),
  "int64": np.array(-7),
  "int32": np.array([[1 << 30, -2]], np.int32),
  "int16": np.array([-300, 300], np.int16),
  "int8": np.array([-128, 127], np.int8),
  "uint8": np.array([0, 255], np.uint8),
  "bool": np.array([True, False, True]),
  "empty": np.zeros((0, 3), np.float32),
}


def _same(have, want):
  assert list(have) == list(want)
  for key, value in want.items():
    assert have[key].dtype == value.dtype, key
    np.testing.assert_array_equal(have[key], value, key, strict=True)
    have[key][...] = 0  # a copy


@pytest.mark.parametrize("legacy", [False, True])
def test_arrays_come_back(tmp_path, legacy):
  data = pth_bytes.save(ARRAYS, legacy=legacy)
  _same(read_pth(data), ARRAYS)
  path = tmp_path / "net.pth"
  path.write_bytes(data)
  _same(read_pth(path), ARRAYS)


def test_they_are_known_by_how_they_begin(tmp_path):
  file = tmp_path / "x"
  assert not is_pth(file)
  assert not is_pth(tmp_path)
  arrays = {"a": np.zeros(3, np.float32)}
  for legacy in (True, False):
    file.write_bytes(pth_bytes.save(arrays, legacy=legacy))
    assert is_pth(file)
  # safetensors, whose header of 640 bytes begins like a pickle.
  text = json.dumps({"__metadata__": {}}).ljust(640).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text)
  assert file.read_bytes().startswith(b"\x80\x02")
  assert not is_pth(file)
  file.write_bytes(b"7767517\n")
  assert not is_pth(file)


def test_plain_values_come_back():
  value = {
    "epoch": 3,
    "big": 1 << 70,
    "rate": 1e-4,
    "none": None,
    "yes": True,
    "nested": {"list": [1, [2.5, "x"]], "tuple": (1, (), -9)},
    7: "a number as a key",
  }
  assert read_pth(pth_bytes.zip_file(value, {})) == value
  assert read_pth(pth_bytes.legacy_file(value, {})) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_python_s_own_pickles(protocol):
  """The standard library writes what the reader must read."""
  shared = (0.9, 0.99)
  value = collections.OrderedDict(
    a=[shared, shared, "x" * 300], b={1: -1, 2: 1 << 40}, c=(None, True, 0.5)
  )
  data = pth_bytes.zip_file(pickle.dumps(value, protocol), {})
  back = read_pth(data)
  assert back == dict(value)
  assert type(back) is dict


def test_views_of_a_storage():
  """PyTorch keeps a slice or a transposed tensor as a view."""
  base = np.arange(60, dtype=np.float32)
  views = {
    "slice": base.reshape(3, 4, 5)[1:, ::2, 1:4],
    "transposed": base.reshape(3, 4, 5).transpose(2, 0, 1),
    "expanded": np.broadcast_to(base[4:6], (3, 2)),
    "one": base[59],
  }
  value = {}
  for key, view in views.items():
    start = view.__array_interface__["data"][0] - base.ctypes.data
    strides = [s // 4 for s in view.strides]
    value[key] = tensor(
      "0",
      "FloatStorage",
      60,
      offset=59 if key == "one" else start // 4,
      shape=view.shape,
      strides=strides,
    )
  back = read_pth(pth_bytes.zip_file(value, {"0": base.tobytes()}))
  for key, view in views.items():
    np.testing.assert_array_equal(back[key], view, key)
    assert back[key].flags.c_contiguous
  # An axis of one may have any stride.
  value = tensor("0", "FloatStorage", 60, shape=(1, 60), strides=(10**9, 1))
  assert read_pth(pth_bytes.zip_file(value, {"0": base.tobytes()})).size == 60


def test_bfloat16_and_byte_order():
  values = np.array([1.0, -2.5, 3.140625, 1e30, -np.inf], np.float32)
  half = (values.view(np.uint32) >> 16).astype("<u2")
  value = [
    tensor("a", "BFloat16Storage", 5, shape=(5,), strides=(1,)),
    tensor("b", "FloatStorage", 5, shape=(5,), strides=(1,)),
  ]
  for order, letter in (("little", "<"), ("big", ">"), (None, "<")):
    storages = {
      "a": half.astype(f"{letter}u2").tobytes(),
      "b": values.astype(f"{letter}f4").tobytes(),
    }
    wide, back = read_pth(pth_bytes.zip_file(value, storages, order=order))
    np.testing.assert_array_equal(back, values)
    exact = (half.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(wide, exact, strict=True)


def test_parameters_and_what_pytorch_0_3_wrote():
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  whole = {"shape": (2, 3), "strides": (3, 1)}
  new = tensor("0", "FloatStorage", 6, **whole)
  old = tensor("0", "FloatStorage", 6, version=1, **whole)
  hooks = b"ccollections\nOrderedDict\n)R"
  parameter = b"ctorch._utils\n_rebuild_parameter\n(" + new.code
  of_old = b"ctorch.nn.parameter\nParameter\n" + old.code + b"\x85R"
  metadata = b"}" + pth_bytes.text("_metadata") + b"}s"
  value = {
    "new": Raw(parameter + b"\x88" + hooks + b"tR"),
    "old": Raw(of_old + b"\x88\x89" + hooks + b"\x87b"),
    # Python 2: the items as pairs.
    "ordered": Raw(b"ccollections\nOrderedDict\n](](U\x01aK\x05ee\x85R"),
    "with": Raw(hooks + metadata + b"b"),
  }
  back = read_pth(pth_bytes.legacy_file(value, {"0": x}))
  for key in ("new", "old"):
    np.testing.assert_array_equal(back[key], x)
  assert (back["ordered"], back["with"]) == ({"a": 5}, {})


class _Evil:
  def __init__(self, mark):
    self.mark = mark

  def __reduce__(self):
    return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_executed(tmp_path, protocol):
  mark = tmp_path / "mark"
  code = pickle.dumps({"a": _Evil(mark)}, protocol)
  files = [pth_bytes.zip_file(code, {}), pth_bytes.legacy_file(code, {}), code]
  for data in files:
    with pytest.raises(ValueError, match=r"posix\.mkdir.*save the arrays"):
      read_pth(data)
  assert not mark.exists()
  pickle.loads(code)  # it would have
  assert mark.exists()


@pytest.mark.parametrize(
  ("code", "name"),
  [
    (b"cbuiltins\neval\n.", "builtins.eval"),
    (b"ctorch._utils\n_rebuild_tensor_v3\n.", "torch._utils._rebuild_tensor"),
    (b"cnumpy\nndarray\n.", "numpy.ndarray"),
    (b"(iposix\nsystem\n.", "posix.system"),
    (b"ctorch\nComplexFloatStorage\n.", "torch.ComplexFloatStorage"),
    (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
    (b"\x82\x01.", "EXT1"),
    (b")\x81.", "NEWOBJ"),
    (b"\x8f.", "EMPTY_SET"),
    (b"Pfile\n.", "PERSID"),
    (b"(" + pth_bytes.text("module") + b"tQ.", "a module by reference"),
    (b"ctorch\nFloatStorage\n.", "torch.FloatStorage"),
  ],
)
def test_any_other_name_is_refused(code, name):
  data = pth_bytes.zip_file(b"\x80\x02" + code, {})
  with pytest.raises(ValueError, match=name):
    read_pth(data)


def _tensor(**changes):
  arguments = {"offset": 0, "shape": (2, 3), "strides": (3, 1)} | changes
  return tensor("0", "FloatStorage", arguments.pop("numel", 6), **arguments)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (_tensor(offset=1), "reaches element 6 of a storage of 6"),
    (_tensor(strides=(4, 1)), "reaches element 6"),
    (_tensor(strides=(-3, 1)), "not a count"),
    (_tensor(offset=-1), "not a count"),
    (_tensor(shape=(2, 1 << 70)), "not a count"),
    (_tensor(strides=(1,)), "2 axes have 1 strides"),
    (_tensor(shape=(1 << 40, 1 << 40), strides=(0, 0)), "larger than the file"),
    (_tensor(numel=7), "has 24 bytes, not 7"),
    (_tensor(numel=1 << 60), "has 24 bytes"),
    (tensor("1", "FloatStorage", 1), "lacks the entry net/data/1"),
    (tensor("../0", "FloatStorage", 1), "lacks the entry"),
    ([_tensor(), tensor("0", "LongStorage", 3)], "of two kinds"),
    (Raw(_tensor(extra=b"(K\x00t").code), "a view of another"),
    (Raw(b"K\x01K\x02s"), "IndexError"),
    (Raw(b"}(K\x01u"), "zip"),
    (Raw(b"})K\x01s"), "a key is a tuple"),
    (Raw(b"h\x07"), "KeyError"),
    (Raw(b"N)R"), "NoneType stands where"),
  ],
)
def test_what_does_not_fit_is_refused(value, message):
  data = pth_bytes.zip_file(value, {"0": bytes(24)})
  with pytest.raises(ValueError, match=message):
    read_pth(data)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.bool_])
def test_whole_files_of_small_numbers(dtype):
  """Of half precision under two names, as params and params_ema are."""
  array = np.ones(100_000, dtype)
  value = {"params": {"w": pth_bytes.of_array("0", array)}}
  if dtype == np.float16:
    value["params_ema"] = value["params"]
  found = read_pth(pth_bytes.zip_file(value, {"0": array.tobytes()}))
  for inside in found.values():
    np.testing.assert_array_equal(inside["w"], array)
    assert inside["w"].dtype == dtype


def test_small_files_that_stand_for_endless_ones(monkeypatch):
  """A list in itself; lists of lists twice over; deep and long ones."""
  monkeypatch.setattr(plain_pickle, "_MAX_INSTRUCTIONS", 20_000)
  itself = b"]q\x00h\x00a"
  twice = b"]K\x01a" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(100))
  keys = b"}" + b"".join(b"q%c(h%ch%ct" % (i, i, i) for i in range(60)) + b"Ns"
  deep = b"](" * 5_000 + b"e" * 5_000
  long = b"](" + b"N" * 20_000 + b"e"
  pairs = b"](" + b"](K\x01Ne" * 2_000 + b"eq\x00"
  again = (
    pairs + b"ccollections\nOrderedDict\nq\x010" + 500 * (b"h\x01h\x00\x85R0")
  )
  numbers = b"L" + b"9" * 100_000 + b"L\n"
  for code in (itself, twice, keys, deep, long, again, numbers):
    for make in (pth_bytes.zip_file, pth_bytes.legacy_file):
      start = time.monotonic()
      with pytest.raises(ValueError, match=r"PyTorch|instructions"):
        read_pth(make(Raw(code), {}))
      assert time.monotonic() - start < 10


def test_zip_files_are_checked():
  x = np.ones(1000, np.float32)
  value = {"x": pth_bytes.of_array("0", x)}
  storages = {"0": x.tobytes()}
  deflated = pth_bytes.zip_file(
    value, storages, compression=zipfile.ZIP_DEFLATED
  )
  with pytest.raises(ValueError, match=r"larger than the file|is compressed"):
    read_pth(deflated)
  with pytest.raises(ValueError, match="or several"):
    read_pth(pth_bytes.zip_file(value, storages, extra=[("b/data.pkl", b"N.")]))
  good = pth_bytes.zip_file(value, storages)
  at = good.index(x.tobytes())
  with pytest.raises(ValueError, match="CRC"):
    read_pth(good[:at] + b"\x01" + good[at + 1 :])
  with pytest.raises(ValueError, match="KeyError"):
    read_pth(pth_bytes.zip_file(value, storages, order="middle"))


def test_what_is_no_checkpoint(tmp_path):
  for data in (b"", b"hello", bytes(100)):
    with pytest.raises(ValueError, match="is not a PyTorch checkpoint"):
      read_pth(data)
  with pytest.raises(ValueError, match=r"torch\.save did not write it"):
    read_pth(pickle.dumps({"a": 1}))
  with pytest.raises(FileNotFoundError):
    read_pth(tmp_path / "gone.pth")
  with pytest.raises(ValueError, match="is a folder"):
    read_pth(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_is_a_value_error(legacy):
  """Or what it reads is of the file's own size; nothing else happens."""
  arrays = {k: ARRAYS[k] for k in ("float32", "float16", "int64", "bool")}
  data = pth_bytes.save(arrays, legacy=legacy)
  refused = 0
  tracemalloc.start()
  for broken in pth_bytes.damage(data, 200, seed=legacy):
    try:
      back = read_pth(broken)
    except ValueError:
      refused += 1
    else:
      assert len(back) == len(arrays)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert refused > 120
  assert peak < 10 * len(data) + 300_000
