"""Small weight files that stand for much, or for a long time."""

import functools
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import pytest
import safetensors.numpy

from sr_jax.models import describe
from sr_jax.npz import read_npz
from sr_jax.weights import (
  from_torch,
  load,
  load_ncnn,
  load_vgg19,
  native,
  plain_mat,
  read_ncnn,
  read_pth,
  save,
  to_torch,
)
from sr_jax.weights.plain_mat import read_mat
from sr_jax.weights.plain_safetensors import read_arrays
from tests import damage
from tests.weights import pth_bytes
from tests.weights.odd import SMALL, filled


def _element(kind, data):
  return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def _matrix(name, axes, parts, *, kind=6):
  head = _element(6, struct.pack("<II", kind, 0))
  head += _element(5, struct.pack(f"<{len(axes)}i", *axes))
  return _element(14, head + _element(1, name) + parts)


def _mat_file(*elements):
  return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(elements)


def _packed(element):
  data = zlib.compress(element, 9)
  return struct.pack("<II", 15, len(data)) + data


def _nested(depth):
  cell = b""
  for _ in range(depth):
    cell = _matrix(b"x", (1, 1), cell, kind=1)
  return cell


_BOMBS = {
  "a cell of 2**62 parts": _matrix(b"x", (1 << 31 - 1,) * 2, b"", kind=1),
  "an array of 2**62 numbers": _matrix(
    b"x", (1 << 31 - 1,) * 2, _element(9, bytes(8))
  ),
  "one of 4 GB": _matrix(b"x", (1,), struct.pack("<II", 9, (1 << 32) - 1)),
  "zeros, compressed a thousand times": _packed(
    _matrix(b"x", (1 << 25, 1), _element(2, bytes(1 << 25)))
  ),
  "twice compressed": _packed(_packed(_packed(bytes(1 << 24)))),
  "many empty arrays": b"".join(
    _matrix(b"x%d" % i, (0, 0), _element(9, b"")) for i in range(2_000)
  ),
  "cells in cells": _nested(300),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_mat_files_that_stand_for_much(name, monkeypatch):
  monkeypatch.setattr(plain_mat, "_MAX_ARRAYS", 1_000)
  data = _mat_file(_BOMBS[name])
  outcome = damage.read(lambda: read_mat(data), len(data))
  assert not outcome.loaded


def test_networks_of_endless_layers(tmp_path):
  """What takes time is not the file's arrays, but what it says of itself."""
  path = tmp_path / "net"
  save(path, SMALL, filled(SMALL))
  arrays = safetensors.numpy.load(path.read_bytes())
  _, arguments = describe(SMALL)
  for change in (
    {"num_blocks": 10**8},
    {"scale": 10**6},
    {"num_features": 10**30},
    {"padding": {"a": [1]}},
    {"padding": ["zero"] * 1000},
    {"dtype": "("},
    {"dtype": "f4,(9999999,9999999)f4"},
    {"num_features": 1e300},
    {"shrink_features": None},
  ):
    record = {"format": 1, "model": "fsrcnn", "arguments": arguments | change}
    text = json.dumps(record)
    path.write_bytes(safetensors.numpy.save(arrays, {"sr_jax": text}))
    outcome = damage.read(lambda: load(path), path.stat().st_size)
    assert not outcome.loaded, change
  nested = "[" * 100_000
  for header in (
    nested,
    f'{{"__metadata__": {nested}',
    json.dumps({"__metadata__": {"sr_jax": nested}}),
    json.dumps({"__metadata__": [1]}),
    json.dumps({"__metadata__": {"sr_jax": 1}}),
    json.dumps({"__metadata__": {"sr_jax": "[]"}}),
    "{" + '"a":[],' * 400_000 + '"b":1}',
    '{"a":[' + "[]," * 340_000 + "1]}",
  ):
    text = header if header.startswith("{") else "{" + header
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode())
    for reader in (load, native.read_record, load_vgg19):
      options = {"layers": ("conv1_1",)} if reader is load_vgg19 else {}
      run = functools.partial(reader, path, **options)
      assert not damage.read(run, path.stat().st_size).loaded


def test_safetensors_of_numbers_that_numpy_lacks(tmp_path):
  path = tmp_path / "net"
  save(path, SMALL, filled(SMALL))
  data = path.read_bytes()
  for kind in (b'"I32"', b'"F99"', b'"U64"'):
    path.write_bytes(data.replace(b'"F32"', kind, 1))
    damage.read(lambda: load(path), len(data))
  header = {"x": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
  with pytest.raises(ValueError, match="F8_E8M0"):
    read_arrays(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["pickles_of_many_objects", "ncnn_texts_that_are_long"]
)
def test_files_of_many_small_things(name):
  """In a process of its own: shape checks take longer than the readers."""
  root = pathlib.Path(__file__).parents[2]
  code = f"from tests.weights import test_bombs; test_bombs.{name}()"
  command = [sys.executable, "-c", code]
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  found = subprocess.run(
    command, cwd=root, env=env, capture_output=True, text=True, check=False
  )
  assert found.returncode == 0, found.stderr[-3000:]


#: What the objects of the longest pickle that is read come to.
_PICKLED = 96 << 20


def pickles_of_many_objects():
  call = b"ctorch._utils\n_rebuild_tensor_v2\nq\0"
  storage = b"(" + pth_bytes.text("storage") + b"ctorch\nFloatStorage\n"
  storage += pth_bytes.text("0") + pth_bytes.text("cpu") + b"K\0tQq\1"
  axes = b"(" + b"K\0" * 8 + b"tq\2"
  again = b"(h\1K\0h\2h\2tq\3"
  many = 1_000_000
  for code in (
    b"(" + b"]" * many + b"l",
    b"(" + b"}" * many + b"l",
    b"(" * many,
    b"](" + (b"h\0h\3R") * (many // 3) + b"e",
  ):
    code = call + storage + axes + again + code
    for make in (pth_bytes.zip_file, pth_bytes.legacy_file):
      data = make(b"\x80\2" + code + b".", {})
      run = functools.partial(read_pth, data)
      assert not damage.read(run, len(data), slack=_PICKLED).loaded
  data = pth_bytes.zip_file(b"\x80\2](" + b"]" * 200_000 + b"e.", {})
  run = functools.partial(read_pth, data)
  assert damage.read(run, len(data), slack=_PICKLED).loaded


def test_pickles_that_name_a_thing_again_and_again():
  array = np.zeros(100_000, np.float32)
  again = b"h\x09" * 4_000
  listed = pth_bytes.Raw(
    b"](" + pth_bytes.of_array("0", array).code + b"q\x09" + again + b"e"
  )
  names = {str(i): pth_bytes.Raw(b"h\x09") for i in range(4_000)}
  first = pth_bytes.Raw(pth_bytes.of_array("0", array).code + b"q\x09")
  wide = pth_bytes.of_array("0", np.zeros(400_000, np.uint8))
  files = [
    pth_bytes.zip_file(value, {"0": array.tobytes()})
    for value in ({"a": listed}, {"a": first, **names}, {"a": wide, "b": wide})
  ]
  files.append(pth_bytes.zip_file({"a" * 4_000_000: 1}, {}))
  # A storage's name, hashed through all that it is nested in.
  deep = b"\x80\x02])" + b"\x85" * 20_000 + b"a."
  files.append(pth_bytes.legacy_file({}, {})[: -len(pth_bytes.dump([]))] + deep)
  for data in files:
    for reader in (read_pth, _load_pth, _load_vgg):
      run = functools.partial(reader, data)
      assert not damage.read(run, len(data), slack=4 << 20).loaded
  described = {"params": {}, "sr_jax_network": "[" + "{}," * 100_000 + "1]"}
  data = pth_bytes.zip_file(described, {})
  assert not damage.read(lambda: _load_pth(data), len(data), slack=0).loaded


def _load_pth(data):
  with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    pathlib.Path(file.name).write_bytes(data)
    return load(file.name, scale=2)


def _load_vgg(data):
  with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    pathlib.Path(file.name).write_bytes(data)
    return load_vgg19(file.name, layers=("conv1_1",))


def test_zip_files_of_many_entries():
  entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
  count = 100_000
  end = struct.pack("<HHII", count & 0xFFFF, count & 0xFFFF, 47 * count, 4)
  data = b"PK\3\4" + entry * count + b"PK\5\6" + bytes(4) + end + b"\0\0"
  for reader in (read_pth, read_npz):
    assert not damage.read(lambda reader=reader: reader(data), len(data)).loaded


def test_state_dicts_of_anything():
  """read_pth gives what is in the file; names and values may be odd."""
  fine = to_torch(SMALL, filled(SMALL))
  key = next(iter(fine))
  for odd in (
    {7: 1},
    {key: "text"},
    {key: {"a": 1}},
    {key: [[1], [1, 2]]},
    {key: [np.zeros(250_000, np.float32)] * 4_000},  # 4 GB as one array
    {key: ["x" * 250_000] + [""] * 4_000},
    {key: fine[key].astype(np.uint8)},
    {f"{i}": np.zeros(()) for i in range(30_000)},
    {key: 1 << 70},
    {key: None},
    {"module." * 2000 + key: fine[key]},
    {"params": {"params": {7: 1}}},
    {},
    {"params": {}},
  ):
    whole = {**fine, **odd} if len(odd) == 1 and key in odd else odd
    assert not damage.read(lambda x=whole: from_torch(SMALL, x), 0).loaded
  with np.errstate(all="raise"):
    huge = {**fine, key: np.full(fine[key].shape, 1e300)}
    from_torch(SMALL, huge)


def ncnn_texts_that_are_long():
  with tempfile.TemporaryDirectory() as folder:
    _ncnn_texts(pathlib.Path(folder) / "net.param")


def _ncnn_texts(path):
  path.with_suffix(".bin").write_bytes(b"")
  count = 80_000
  text = f"7767517\n{count} 0\n" + "ReLU a 0 0\n" * count
  for content in (text, text * 2, f"7767517\n1 1\nReLU a 0 {'9' * 5000}\n"):
    path.write_text(content)
    size = path.stat().st_size
    for reader in (read_ncnn, load_ncnn):
      run = functools.partial(reader, path)
      damage.read(run, size, slack=64 << 20)
