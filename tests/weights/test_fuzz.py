"""Damaged weight files of every kind: an error that is documented, or arrays.

Each reader gets 2,000 files and more that are cut short, spliced, with bits
flipped and with other numbers for lengths. `test_bombs.py` has those made by
hand, which are small and stand for much.
"""

import io
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import scipy.io
from hypothesis import given

from sr_jax.npz import read_npz
from sr_jax.weights import (
  load,
  load_mat,
  load_ncnn,
  load_vgg19,
  native,
  read_ncnn,
  read_pth,
  save,
  to_torch,
  vgg,
)
from sr_jax.weights.plain_mat import read_mat
from sr_jax.weights.plain_safetensors import read_arrays
from tests import damage
from tests.weights import pth_bytes, test_mat, test_ncnn
from tests.weights.odd import SMALL, filled

_FAST, _MANY = 300, 2_100
_SIZES = pytest.mark.parametrize(
  "examples", [_FAST, pytest.param(_MANY, marks=pytest.mark.slow)]
)


def _fuzz(examples, files, run, *, parts=1, slack=damage.SLACK):
  """Runs them; at least a fifth is refused and one is read.

  Args:
    examples: Of the whole reader.
    files: Whole ones; the first is read without an error.
    run: The reader.
    parts: Kinds of files that the reader's examples are shared by.
    slack: Bytes that it may take besides ten times the file's.
  """
  loaded, examples = [], examples // parts

  @damage.seeded(examples)
  @given(damage.damaged(files))
  def each(data):
    outcome = damage.read(lambda: run(data), len(data), slack=slack)
    loaded.append(outcome.loaded)

  run(files[0])  # what is imported and traced once is not the files' doing
  each()
  assert len(loaded) >= examples
  assert examples // 5 <= loaded.count(False) < examples


# .pth


@_SIZES
@pytest.mark.parametrize("legacy", [False, True])
def test_pth_files(examples, legacy, tmp_path):
  path = tmp_path / "net.pth"
  arrays = to_torch(SMALL, filled(SMALL))
  more = {"half": np.ones(3, np.float16), "b": np.array(True)}
  files = [pth_bytes.save(x, legacy=legacy) for x in (arrays, more)]

  def run(data):
    path.write_bytes(data)
    load(path, scale=2)

  _fuzz(examples, files, run, parts=2)


# Our own, and safetensors of others.


@pytest.fixture
def own_files(tmp_path):
  save(tmp_path / "net", SMALL, filled(SMALL), config={"a": [1, 2.5, "x"]})
  data = (tmp_path / "net").read_bytes()
  arrays = safetensors.numpy.load(data)
  return [data, safetensors.numpy.save(arrays, {"b": "c"})]


@_SIZES
def test_our_own_files(examples, tmp_path, own_files):
  path = tmp_path / "net.safetensors"

  def run(data):
    path.write_bytes(data)
    load(path)
    native.read_record(path)

  _fuzz(examples, own_files, run)


_CONV = {
  "conv1_1/kernel": np.ones((3, 3, 3, 2), np.float32),
  "conv1_1/bias": np.ones(2, np.float32),
}


def _npz(save_npz):
  stream = io.BytesIO()
  save_npz(stream, **_CONV)
  return stream.getvalue()


@_SIZES
@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth"])
def test_vgg_files(examples, kind, tmp_path, monkeypatch):
  path = tmp_path / "vgg"
  metadata = {"sr_jax": json.dumps({"mean": [0.5] * 3, "std": [1.0] * 3})}
  files = {
    "safetensors": [safetensors.numpy.save(_CONV, m) for m in (metadata, None)],
    "npz": [_npz(np.savez), _npz(np.savez_compressed)],
    "pth": [
      pth_bytes.save(
        {"features.0.weight": np.ones((2, 3, 3, 3), np.float32)}, legacy=x
      )
      for x in (False, True)
    ],
  }[kind]
  # A network is traced in tens of milliseconds.
  shapes = {k: jax.ShapeDtypeStruct(v.shape, "f4") for k, v in _CONV.items()}
  tree_of = {"params": {"conv1_1": {k[8:]: v for k, v in shapes.items()}}}
  monkeypatch.setattr(vgg.jax, "eval_shape", lambda *_: tree_of)
  if kind == "pth":
    tree_of["params"]["conv1_1"].pop("bias")

  def run(data):
    path.write_bytes(data)
    load_vgg19(path, layers=("conv1_1",))

  _fuzz(examples, files, run, parts=3)


# MATLAB.


def _mat(content, **options):
  stream = io.BytesIO()
  scipy.io.savemat(stream, content, **options)
  return stream.getvalue()


def _mat_files(compressed):
  contents = [
    test_mat._fsrcnn_content(d=2, s=2, m=1),
    test_mat._srcnn_content(),
    {"text": "abc", "s": {"a": 1}, "i": np.arange(9, dtype=np.int16)},
  ]
  return [_mat(x, do_compression=compressed) for x in contents]


@_SIZES
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files(examples, compressed, tmp_path):
  path = tmp_path / "x3.mat"

  def run(data):
    path.write_bytes(data)
    load_mat(path)

  _fuzz(examples, _mat_files(compressed), run, parts=2)


# ncnn.


@_SIZES
@pytest.mark.parametrize("suffix", [".param", ".bin"])
@pytest.mark.parametrize("network", ["rrdbnet", "srvggnet"])
def test_ncnn_files(examples, network, suffix, tmp_path):
  writer = test_ncnn._Writer(fp16=True)
  if network == "rrdbnet":
    writer.rrdbnet(features=2, blocks=1, growth=2)
  else:
    writer.srvggnet(features=2, blocks=1)
  path = writer.save(tmp_path)
  file = path.with_suffix(suffix)

  def run(data):
    file.write_bytes(data)
    read_ncnn(path)
    load_ncnn(path)

  _fuzz(examples, [file.read_bytes()], run, parts=2)


# Large ones, so that it shows what a reader takes besides their bytes.


def _large(kind):
  """Whole files of one to three megabytes that hold noise, and their reader."""
  rng = np.random.default_rng(0)
  noise = lambda *shape: rng.standard_normal(shape).astype("f4")
  arrays = {"a.weight": noise(256, 256, 3, 3), "a.bias": noise(256)}
  stream = io.BytesIO()
  if kind == "npz":
    np.savez(stream, **arrays)
  if kind == "npz, compressed":
    np.savez_compressed(stream, **arrays)
  made = {
    "pth": lambda: (pth_bytes.save(arrays, legacy=False), read_pth),
    "pth, legacy": lambda: (pth_bytes.save(arrays, legacy=True), read_pth),
    "safetensors": lambda: (safetensors.numpy.save(arrays), read_arrays),
    "npz": lambda: (stream.getvalue(), read_npz),
    "npz, compressed": lambda: (stream.getvalue(), read_npz),
    "mat": lambda: (_mat({"w": noise(900, 900)}), read_mat),
    "mat, compressed": lambda: (
      _mat({"w": noise(900, 900)}, do_compression=True),
      read_mat,
    ),
  }
  return made[kind]()


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind",
  [
    "pth",
    "pth, legacy",
    "safetensors",
    "npz",
    "npz, compressed",
    "mat",
    "mat, compressed",
  ],
)
def test_large_files(kind):
  data, reader = _large(kind)
  assert len(data) > 1 << 20
  _fuzz(100, [data], reader, slack=1 << 20)


@pytest.mark.slow
def test_large_ncnn_files(tmp_path):
  writer = test_ncnn._Writer(fp16=True)
  writer.rrdbnet(features=64, blocks=1, growth=32)
  path = writer.save(tmp_path)
  file = path.with_suffix(".bin")

  def run(data):
    file.write_bytes(data)
    read_ncnn(path)

  _fuzz(100, [file.read_bytes()], run, slack=1 << 20)
