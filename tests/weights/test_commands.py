"""python -m sr_jax.weights."""

import hashlib
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from sr_jax.models import MSRResNet
from sr_jax.weights import __main__ as command
from sr_jax.weights import load, read_pth, save, to_torch, write_pth
from sr_jax.weights.native import read_record
from tests.weights.odd import filled

NETWORK = MSRResNet(scale=2, num_features=4, num_blocks=2)


def _run(*arguments):
  return command.main([str(argument) for argument in arguments])


@pytest.fixture
def pth(tmp_path):
  path = tmp_path / "net.pth"
  write_pth(path, {"params": to_torch(NETWORK, filled(NETWORK))})
  return path


def test_inspect(pth, capsys):
  assert _run("inspect", pth) == 0
  printed = capsys.readouterr().out
  count = sum(x.size for x in jax.tree.leaves(filled(NETWORK)))
  for part in (
    f"file        {pth}",
    "PyTorch checkpoint",
    "MSRResNet, build('msrresnet', ...)",
    "scale=2, num_features=4, num_blocks=2 (in_channels=3, out_channels=3,",
    f"parameters  {count:,}",
    "float32 or bfloat16",
    hashlib.sha256(pth.read_bytes()).hexdigest(),
  ):
    assert part in printed
  assert "conv_first" not in printed
  assert _run("inspect", pth, "--layers") == 0
  kernel = np.asarray(filled(NETWORK)["params"]["body"]["conv1"]["kernel"])
  assert re.search(
    rf"params/body/conv1/kernel +\(2, 3, 3, 4, 4\) +{kernel.mean():.4g} +"
    rf"{kernel.std():.4g}",
    capsys.readouterr().out,
  )


def test_inspect_tells_what_we_wrote_beside(tmp_path, capsys):
  path = tmp_path / "net.safetensors"
  figures = {"psnr": 33.06}
  save(path, NETWORK, filled(NETWORK), config={"seed": 3}, figures=figures)
  assert _run("inspect", path) == 0
  printed = capsys.readouterr().out
  assert "sr_jax safetensors" in printed
  assert re.search(r"^figures\.psnr +33\.06$", printed, re.MULTILINE)
  assert '{"seed": 3}' in printed


def test_what_a_file_says_steers_no_terminal(tmp_path, capsys):
  path = tmp_path / "net.safetensors"
  figures = {"[/x]": 1, "[bold]y": 2, "\x1b[2J": "\x1b]0;title\x07"}
  save(path, NETWORK, filled(NETWORK), figures=figures)
  assert _run("inspect", path) == 0
  printed = capsys.readouterr().out
  assert "figures.[/x]" in printed
  assert "figures.[bold]y" in printed
  assert "\x1b" not in printed
  assert "\x07" not in printed


def test_there_and_back(pth, tmp_path, capsys):
  ours, back = tmp_path / "a.safetensors", tmp_path / "b.pth"
  torch, again = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
  assert _run("convert", pth, ours) == 0
  assert read_record(ours)["model"] == "msrresnet"
  assert _run("convert", ours, back) == 0
  assert _run("convert", back, torch, "--torch") == 0
  names = safetensors.numpy.load_file(torch)
  want = read_pth(pth)["params"]
  assert set(names) == set(want)
  for key, value in names.items():
    np.testing.assert_array_equal(value, want[key], strict=True)
  assert _run("convert", torch, again) == 0
  assert again.read_bytes() == ours.read_bytes()
  arrays = read_pth(back)["params"]
  assert list(arrays) == list(want)
  for key, value in arrays.items():
    np.testing.assert_array_equal(value, want[key], strict=True)
  capsys.readouterr()
  for one in (ours, back, torch):
    assert _run("diff", pth, one) == 0
    assert "0 arrays differ, 12 are equal" in capsys.readouterr().out


def test_what_was_saved_beside_is_kept(tmp_path):
  path, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  save(path, NETWORK, filled(NETWORK), config={"seed": 3}, figures={"psnr": 1})
  assert _run("convert", path, copy) == 0
  assert read_record(copy) == read_record(path)


def test_diff_tells_layer_by_layer(pth, tmp_path, capsys):
  other = tmp_path / "other.pth"
  state_dict = read_pth(pth)["params"]
  weight = state_dict["body.1.conv2.weight"]
  largest = np.abs(weight).max()
  weight[2, 1, 0, 0] += 8.0
  write_pth(other, state_dict)
  assert _run("diff", pth, other) == 1
  printed = capsys.readouterr().out
  kernel = np.asarray(load(pth)[1]["params"]["body"]["conv2"]["kernel"])
  rms = 8 / np.sqrt(kernel.size)
  assert largest <= np.abs(kernel).max()
  share = 8 / np.abs(kernel).max()
  assert re.search(
    rf"params/body/conv2/kernel +8 +{share:.2g} +{rms:.3g}", printed
  )
  assert "1 arrays differ, 11 are equal" in printed
  assert "conv_first" not in printed

  deeper = MSRResNet(scale=2, num_features=4, num_blocks=3)
  write_pth(other, to_torch(deeper, filled(deeper)))
  assert _run("diff", pth, other) == 1
  printed = capsys.readouterr().out
  assert "num_blocks: 2 -> 3" in printed
  assert re.search(r"body/conv1/bias +\(2, 4\) -> \(3, 4\)", printed)


def test_mistakes_are_one_line(pth, tmp_path, capsys):
  for arguments, message in (
    (["inspect", tmp_path / "gone"], "there is no weight file"),
    (["inspect", tmp_path], "is a folder"),
    (["inspect", pth, "--scale=3"], "network for x2, and scale 3 was asked"),
    (["convert", pth, tmp_path / "x.bin"], "neither in .safetensors nor in"),
    (["convert", pth, tmp_path / "gone" / "x.pth"], "there is no folder"),
    (["diff", pth, tmp_path / "gone"], "there is no weight file"),
  ):
    assert _run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
  assert list(tmp_path.iterdir()) == [pth]
