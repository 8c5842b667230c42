"""The command that learns sparse coding's dictionaries."""

import pytest

from sr_jax import weights
from sr_jax.models import SparseCoding
from sr_jax.training import dictionary
from sr_jax.weights.native import read_record
from tests.training import runs


def _run(folder, *arguments):
  """The last of arguments that are there twice is taken."""
  return dictionary.main(
    [
      f"--images={folder}",
      f"--benchmark={folder}",
      "--scale=2",
      "--atoms=8",
      "--patches=500",
      "--batches=2",
      *arguments,
    ]
  )


def test_it_is_learned_measured_and_written(tmp_path, capsys):
  folder, out = runs.pictures(tmp_path / "images"), tmp_path / "x2.safetensors"
  assert _run(folder, f"--output={out}") == 0
  model, variables = weights.load(out)
  assert model == SparseCoding(scale=2, num_atoms=8)
  assert variables["params"]["high"].shape == (8, 36)
  record = read_record(out)
  assert record["config"]["batches"] == 2
  assert record["figures"]["psnr"] > 20
  printed = capsys.readouterr().out
  assert f"{record['figures']['psnr']:.2f}" in printed
  assert "an image" in printed


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--atoms=0", "--atoms: 0 is not a positive number"),
    ("--images=/no/such", "/no/such"),
    ("--atoms=4000", "fewer than num_atoms 4000"),
    ("--output=x2.pth", "'x2.pth' does not end in .safetensors"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, argument, message):
  folder, out = runs.pictures(tmp_path / "images"), tmp_path / "x2.safetensors"
  assert _run(folder, f"--output={out}", argument) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not out.exists()
