"""NIQE in the tables, files and pictures of eval.py."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sr_jax import weights
from sr_jax.evaluation import run
from sr_jax.models import SRCNN


@pytest.fixture(scope="module")
def niqe_prior(tmp_path_factory):
  path = tmp_path_factory.mktemp("prior") / "mine.npz"
  np.savez(
    path,
    mu_pris_param=np.linspace(0, 1, 36)[None],
    cov_pris_param=np.eye(36),
    gaussian_window=np.full((7, 7), 1 / 49),
  )
  return str(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
  """A picture with two blocks for NIQE inside the crop."""
  folder = tmp_path_factory.mktemp("large")
  small = np.random.default_rng(1).integers(0, 256, (25, 50, 3), np.uint8)
  picture = Image.fromarray(small).resize((200, 100), Image.Resampling.BICUBIC)
  picture.save(folder / "wide.png")
  return folder


def test_niqe_in_table_details_json_and_report(
  large, niqe_prior, tmp_path, capsys
):
  out, page = tmp_path / "out.json", tmp_path / "out.html"
  code = run.run(
    weights=["nearest"],
    benchmarks=[str(large)],
    scales=[2],
    metrics=["psnr", "ssim", "niqe"],
    niqe_prior=niqe_prior,
    details=True,
    json_path=str(out),
    report_path=str(page),
  )
  assert code == 0
  (record,) = json.loads(out.read_text())
  assert record["niqe_protocol"]["prior"] == "mine.npz"
  assert record["niqe_protocol"]["crop_border"] == 2
  names = ("niqe", "bicubic_niqe", "hr_niqe")
  figures = [record[name] for name in names]
  assert [record["images"][0][name] for name in names] == figures
  assert len(set(figures)) == 3
  niqes = [f"{figure:.2f}" for figure in figures]
  printed = capsys.readouterr().out
  columns = " +".join(niqes)
  assert re.search(rf"wide .* {columns} +[-+0]", printed)  # detail, then gain
  assert re.search(rf"nearest .* {columns} *\n", printed)
  assert "NIQE on rounded Y, lower is better" in printed
  assert "prior mine.npz" in printed
  html = page.read_text()
  assert f'<td class="figure">{niqes[0]}</td>' in html
  for dB, value in (("psnr", niqes[0]), ("bicubic_psnr", niqes[1])):
    assert f"<span>{record[dB]:.2f} dB, NIQE {value}</span>" in html
  assert f"<span>NIQE {niqes[2]}</span>" in html
  assert "prior mine.npz" in html


def test_only_what_was_asked_for(large, niqe_prior, tmp_path, capsys):
  model = SRCNN(
    scale=2,
    in_channels=3,
    out_channels=3,
    features=(4, 2),
    kernel_sizes=(3, 1, 3),
  )
  path, out = tmp_path / "rgb.safetensors", tmp_path / "out.json"
  # A fresh network gives a flat picture, which has no NIQE; this one blurs.
  variables = jax.tree.map(
    lambda x: jnp.full_like(x, x.shape[-1] / x.size if x.ndim == 4 else 0),
    jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))),
  )
  weights.save(path, model, variables)
  options = {
    "weights": [str(path)],
    "benchmarks": [str(large)],
    "niqe_prior": niqe_prior,
    "json_path": str(out),
  }
  assert run.run(metrics=["niqe"], **options) == 0
  (record,) = json.loads(out.read_text())
  assert record["protocol"]["metric"] == "niqe"
  assert "psnr" not in record
  assert "PSNR" not in capsys.readouterr().out
  assert run.run(metrics=["ssim", "niqe"], **options) == 0
  rgb, luma = json.loads(out.read_text())
  assert "niqe" not in rgb
  assert luma["niqe"] == record["niqe"]
  assert rgb["ssim"] != luma["ssim"]
  printed = capsys.readouterr().out
  assert re.search(r"on +SSIM +bicubic +NIQE +bicubic +truth", printed)
  assert re.search(rf"Y .* {luma['niqe']:.2f} ", printed)


def test_niqe_of_a_small_picture_is_a_row_that_names_it(
  folder, large, niqe_prior, capsys
):
  code = run.run(
    weights=["bicubic"],
    benchmarks=[str(folder), str(large)],
    scales=[2],
    metrics=["niqe"],
    niqe_prior=niqe_prior,
  )
  assert code == 1
  printed = capsys.readouterr().out
  assert f"image 'a' of '{folder}': image (26, 28, 1)" in printed
  assert "NIQE needs two blocks of 96x96" in printed


def test_a_narrow_terminal_cuts_no_figure(
  large, niqe_prior, capsys, monkeypatch
):
  monkeypatch.setattr(
    run, "Console", lambda **options: Console(**{"width": 40, **options})
  )
  monkeypatch.setattr(Console, "is_terminal", True)
  options = {"weights": ["nearest"], "benchmarks": [str(large)], "scales": [2]}
  assert (
    run.run(metrics=["psnr", "niqe"], niqe_prior=niqe_prior, **options) == 0
  )
  printed = capsys.readouterr().out
  assert "truth" in printed
  assert "…" not in printed
