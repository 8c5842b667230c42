"""The networks that come with the package are what their card says."""

import hashlib
import importlib
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from sr_jax import weights
from sr_jax.evaluation import benchmark
from sr_jax.evaluation.networks import load_network
from sr_jax.inference import upscale
from sr_jax.models import FSRCNN, SRCNN, describe
from sr_jax.weights import commands, shipped, tree
from sr_jax.weights.native import read_record

_FOLDER = pathlib.Path(shipped.__file__).parent / "zoo"
_CARD = (_FOLDER / "README.md").read_text()

#: Set5 in dB, the papers' on T91, and how much less is too little.
_PAPERS = {
  "fsrcnn_x2": 36.94,
  "fsrcnn_x3": 33.06,
  "fsrcnn_x4": 30.55,
  "srcnn_x2": 36.34,
  "srcnn_x3": 32.39,
  "srcnn_x4": 30.09,
}
_LESS = 0.10


def _rows(heading):
  """The card's table under a heading: name -> the other columns."""
  text = _CARD.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
  rows = re.findall(r"^\| ([a-z]\w+\S*) \| (.*) \|$", text, re.MULTILINE)
  return {
    name.removesuffix(".safetensors"): [c.strip() for c in rest.split("|")]
    for name, rest in rows
    if name not in ("network", "file")
  }


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))


def test_all_are_there_and_small():
  assert set(_PAPERS) | {"fsrcnn_s_x3"} <= set(weights.SHIPPED)
  files = [_FOLDER / f"{name}.safetensors" for name in weights.SHIPPED]
  assert sum(file.stat().st_size for file in files) < 1_000_000
  for heading in ("Figures", "Training", "Files"):
    assert sorted(_rows(heading)) == list(weights.SHIPPED)


@pytest.mark.parametrize("name", weights.SHIPPED)
def test_each_is_the_file_of_its_card(name):
  size, digest = _rows("Files")[name]
  data = (_FOLDER / f"{name}.safetensors").read_bytes()
  assert f"{len(data):,}" == size
  assert f"`{hashlib.sha256(data).hexdigest()}`" == digest
  model, variables = weights.load(name)
  kind, scale = name.rsplit("_x")
  assert model.scale == int(scale)
  assert type(model) is (SRCNN if kind == "srcnn" else FSRCNN)
  # What the paper's networks are, and what their authors' files load as.
  assert describe(model)[1]["padding"] == "edge"
  command, steps, seed = _rows("Training")[name]
  # The command is that of the run, and the run was at its end.
  record = read_record(name)
  module, variant = re.fullmatch(
    r"`python train.py --config=configs/(\w+)\.py:(\S+)`", command
  ).groups()
  config = importlib.import_module(f"configs.{module}").get_config(variant)
  assert record["config"] == json.loads(json.dumps(config.to_dict()))
  assert record["figures"]["step"] == config.steps
  assert (steps, seed) == (f"{config.steps:,}", str(config.seed))
  sr = upscale(model, variables, np.full((8, 9, 3), 128, np.uint8))
  assert sr.shape == (8 * model.scale, 9 * model.scale, 3)
  assert np.abs(sr.astype(int) - 128).max() <= 4  # grey stays grey


#: The larger sets at one scale: the code is the same at all.
_MEASURED = [
  (name, dataset)
  for name in weights.SHIPPED
  for dataset in ("Set5", "Set14", "BSD100")
  if dataset == "Set5" or name.endswith("x3")
]


@pytest.mark.parametrize(
  ("name", "dataset"),
  [
    pytest.param(
      *pair, marks=() if pair == ("fsrcnn_x3", "Set5") else pytest.mark.slow
    )
    for pair in _MEASURED
  ],
)
@pytest.mark.usefixtures("optimized")
def test_figures_of_the_card(name, dataset, data_dir):
  network = load_network(name)
  prepared = benchmark.prepare(
    dataset, scale=network.model.scale, channels=1, data_dir=str(data_dir)
  )
  result = benchmark.evaluate(network.model, network.variables, prepared)
  column = {"Set5": 1, "Set14": 3, "BSD100": 4}[dataset]
  psnr, ssim = map(float, _rows("Figures")[name][column].split(" / "))
  assert abs(result.psnr - psnr) < 0.0051
  assert abs(result.ssim - ssim) < 0.000_051
  assert result.psnr > result.bicubic_psnr + 0.4
  if dataset == "Set5" and name in _PAPERS:
    assert result.psnr >= _PAPERS[name] - _LESS
    published = network.published.find("set5", network.model.scale, "Y")
    assert published.psnr == _PAPERS[name]
    assert _rows("Figures")[name][2] == f"{published.psnr:.2f}"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert weights.load("fsrcnn_x3")[0].num_features == 56
  own = FSRCNN(scale=3, num_features=4, shrink_features=2, num_blocks=1)
  variables = jax.jit(own.init)(
    jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1))
  )
  weights.save("own.safetensors", own, variables)
  pathlib.Path("own.safetensors").rename("fsrcnn_x3")
  assert weights.load("fsrcnn_x3")[0].num_features == 4


def test_a_name_that_is_none_of_them(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"come with sr_jax are .*fsrcnn"):
    weights.load("fsrcnn_x5")
  with pytest.raises(FileNotFoundError, match=r"no weight file .*x\.pth$"):
    weights.load("x.pth")
  with pytest.raises(ValueError, match="network for x3, and scale 2"):
    weights.load("fsrcnn_x3", scale=2)


def test_by_its_commands(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert commands.inspect("fsrcnn_x3", None, layers=False) == 0
  assert "12,809" in capsys.readouterr().out  # a slope for each channel
  expected, flat = _loaded("fsrcnn_x3")
  # Its borders and its enlargement, which no array tells, go along.
  for target in ("net.pth", "net.safetensors"):
    assert commands.convert("fsrcnn_x3", target, None, torch=True) == 0
    assert b"params/feature" not in pathlib.Path(target).read_bytes()
    assert commands.diff("fsrcnn_x3", target, None) == 0
    model, back = _loaded(target)
    assert model == expected
    for key, value in flat.items():
      np.testing.assert_array_equal(back[key], value)


def _loaded(name):
  model, variables = weights.load(name)
  return model, tree.flatten(variables)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (7, "no JSON object"),
    ("[]", "no JSON object"),
    ("{}", "does not know: 'arguments'"),
    ('{"model": "fsrcn", "arguments": {}}', "did you mean 'fsrcnn'"),
    (
      '{"model": "srcnn", "arguments": {"scale": 3}}',
      "does not fit|state_dict",
    ),
    (
      '{"model": "fsrcnn", "arguments": {"num_features": 100000000}}',
      "does not know",
    ),
  ],
)
def test_a_network_s_text_that_is_not_its_own(text, message, tmp_path):
  model, variables = weights.load("fsrcnn_x3")
  checkpoint = weights.torch_checkpoint(model, variables)
  path = tmp_path / "net.pth"
  weights.write_pth(path, checkpoint | {"sr_jax_network": text})
  with pytest.raises(ValueError, match=message):
    weights.load(path)


def test_a_folder_of_that_name_that_is_no_run_s(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("fsrcnn_x3").mkdir()
  assert load_network("fsrcnn_x3").model.scale == 3
  pathlib.Path("fsrcnn_x3/weights").mkdir()
  with pytest.raises(FileNotFoundError, match="give the workdir"):
    load_network("fsrcnn_x3")


def test_others_are_looked_for_beside_the_data(tmp_path, monkeypatch):
  """As the tables do."""
  for variable, folder in (
    ("SR_JAX_DATA", "d/weights"),
    ("SR_JAX_WEIGHTS", "w"),
  ):
    monkeypatch.setenv(variable, str(tmp_path / folder.partition("/")[0]))
    file = tmp_path / folder / "mine" / f"{variable}.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes((_FOLDER / "fsrcnn_x2.safetensors").read_bytes())
    assert load_network(f"mine/{variable}.safetensors").model.scale == 2
