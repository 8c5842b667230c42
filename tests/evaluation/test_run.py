"""eval.py as a user meets it: tables, files, and messages."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sr_jax import weights
from sr_jax.evaluation import jobs, networks, published, records, run, tables
from sr_jax.models import FSRCNN, SRCNN, MSRResNet, build

_ROOT = pathlib.Path(__file__).parents[2]
_TINY = FSRCNN(scale=2, num_features=4, shrink_features=2, num_blocks=1)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(_TINY.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, variables):
  workdir = tmp_path_factory.mktemp("runs") / "tiny"
  (workdir / "weights").mkdir(parents=True)
  weights.save(
    workdir / "weights" / "last.safetensors",
    _TINY,
    variables,
    config={"published": "fsrcnn_t91"},
  )
  return workdir


def test_table_json_and_report(folder, workdir, tmp_path, capsys):
  code = run.run(
    weights=["nearest", str(workdir)],
    benchmarks=[str(folder)],
    scales=["2"],
    details=True,
    json_path=str(tmp_path / "out.json"),
    report_path=str(tmp_path / "out.html"),
  )
  assert code == 0
  records = json.loads((tmp_path / "out.json").read_text())
  assert [r["network"] for r in records] == ["nearest", "runs0/tiny"]
  assert records[0]["bicubic_psnr"] == records[1]["bicubic_psnr"]
  assert records[0]["images"][0]["name"] == "a"
  assert records[0]["protocol"]["crop_border"] == 2
  assert records[0]["published"] is None
  mean = np.mean([image["psnr"] for image in records[1]["images"]])
  assert records[1]["psnr"] == pytest.approx(mean)

  printed = capsys.readouterr().out
  for record in records:
    pattern = (
      rf"{record['network']} +{folder.name} +x2 +Y +{record['psnr']:.2f} "
      rf"+{record['ssim']:.4f} +{record['bicubic_psnr']:.2f}"
    )
    assert re.search(pattern, printed)
  assert "Y: PSNR in dB and SSIM (per_channel), MATLAB bicubic" in printed
  assert "b<i>" in printed  # per-image detail

  page = (tmp_path / "out.html").read_text()
  # whole, low resolution, bicubic, two networks, truth; two pictures
  assert page.count("data:image/png;base64,") == 12
  assert "http" not in page  # nothing beside it
  assert "b&lt;i&gt;" in page
  assert f'<td class="figure">{records[0]["psnr"]:.2f}</td>' in page
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out.html", "out.json"]


def test_a_missing_set_is_a_row_with_the_loaders_message(
  folder, capsys, tmp_path
):
  code = run.run(
    weights=["bicubic"],
    benchmarks=["set5", str(folder)],
    scales=[2],
    data_dir=str(tmp_path),
    report_path=str(tmp_path / "out.html"),
    json_path=str(tmp_path / "out.json"),
  )
  assert code == 1
  printed = capsys.readouterr().out
  assert "see below" in printed
  assert "bicubic, set5 x2: 'set5' is not in" in " ".join(printed.split())
  assert "is not in" in (tmp_path / "out.html").read_text()
  records = json.loads((tmp_path / "out.json").read_text())
  assert records[0]["problem"].startswith("'set5' is not in")


def test_published_tables_say_what_is_missing(capsys, tmp_path):
  missing = {"data_dir": str(tmp_path)}
  code = run.run(table=["srcnn"], scales=[4], **missing)
  assert code == 2
  printed = capsys.readouterr().out
  wanted = tmp_path / "weights" / "srcnn" / "9-1-5_t91" / "x4.mat"
  assert (
    f"SRCNN 9-1-5 (T91), set5 x4: there is no {wanted}: bring it from the "
    "authors' page, mmlab.ie.cuhk.edu.hk/projects/SRCNN.html, and put it there"
  ) in printed
  assert "9-5-5_imagenet/x4.mat" in printed
  assert "set5 x4, set14 x4, div2k100 x4: there is no" in printed
  assert "x3" not in printed
  # What was published is told all the same.
  assert re.search(r"set5 +x4 +Y +30\.09", printed)
  assert run.run(table=["fsrcnn"], benchmarks=["set-5"], **missing) == 2
  assert "fsrcnn/fsrcnn/x2.mat" in capsys.readouterr().out
  assert run.run(table=["srresnet"], data_dir=str(tmp_path)) == 2
  printed = capsys.readouterr().out
  assert "no weights can be had" in printed
  assert "train it by configs/srresnet.py" in printed


def _images(folder):
  rng = np.random.default_rng(0)
  folder.mkdir()
  for i in range(5):
    picture = Image.fromarray(rng.integers(0, 256, (24, 26, 3), np.uint8))
    picture.save(folder / f"{i}.png")


def test_a_row_is_measured_as_it_was_published(capsys, tmp_path, monkeypatch):
  """Its colour alone, and its SSIM; weights from SR_JAX_WEIGHTS."""
  _images(tmp_path / "Set5")
  model = MSRResNet(scale=2, num_features=4, num_blocks=1)
  given = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  weights.save(tmp_path / "mine" / "net_x2.safetensors", model, given)
  entry = published.Published(
    key="mine",
    title="Mine",
    table="mine",
    colour="RGB",
    source="a paper",
    ssim="window_3d",
    figures={("set5", 2): published.Figure(psnr=5.0, ssim=0.5)},
    weights={2: "mine/net_x2.safetensors"},
    parameters={2: 1234},
  )
  monkeypatch.setattr(jobs, "families", lambda: {"mine": [entry]})
  monkeypatch.setenv("SR_JAX_WEIGHTS", str(tmp_path))
  out = tmp_path / "out.json"
  options = {"data_dir": str(tmp_path), "json_path": str(out)}
  assert run.run(table=["all"], **options) == 0
  (record,) = json.loads(out.read_text())
  assert record["protocol"]["colour"] == "RGB"
  assert record["ssim_protocol"]["ssim_flavour"] == "window_3d"
  difference = record["ssim"] - 0.5
  assert record["published"]["ssim_difference"] == pytest.approx(difference)
  printed = capsys.readouterr().out
  assert re.search(rf"5\.00 .*0\.5000 +{difference:+.4f}", printed)
  assert "published Mine: a paper; 1,234 parameters" in printed
  # Of another kind it is not compared.
  assert run.run(table=["mine"], ssim_flavour="per_channel", **options) == 0
  (record,) = json.loads(out.read_text())
  assert record["published"]["ssim_difference"] is None
  assert record["ssim_protocol"]["ssim_flavour"] == "per_channel"


def test_a_published_figure_beside_ours(capsys, tmp_path):
  _images(tmp_path / "Set5")
  out = tmp_path / "out.json"
  options = {"data_dir": str(tmp_path), "json_path": str(out)}
  assert run.run(table=["bicubic"], benchmarks=["set5"], **options) == 0
  records = json.loads(out.read_text())
  assert [r["scale"] for r in records] == [2, 3, 4]
  assert [r["published"]["psnr"] for r in records] == [33.66, 30.39, 28.42]
  assert records[0]["published"]["difference"] == pytest.approx(
    records[0]["psnr"] - 33.66
  )
  printed = capsys.readouterr().out
  assert re.search(rf"33\.66 +{records[0]['psnr'] - 33.66:+.2f}", printed)
  assert "published bicubic: as printed by Dong et al. 2016" in printed


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "give --weights or --table"),
    ({"weights": ["bicubic"], "table": ["srcnn"]}, "one of them"),
    ({"weights": ["bicubic"], "scales": ["two"]}, "'two' is not a positive"),
    ({"weights": ["bicubic"], "scales": ["0"]}, "'0' is not a positive"),
    ({"weights": ["/no/such.mat"]}, "there is no weight file /no/such.mat"),
    ({"weights": ["x{scale}.mat"]}, "'x{scale}.mat' needs a scale"),
    ({"table": ["all", "edrs"]}, "'edrs' is not one of ['all', 'basicvsr', "),
    ({"table": ["edrs"]}, "'edrs' is not one of ['all', 'basicvsr', 'basi"),
    ({"table": ["srcnn"], "scales": [8]}, "nothing was published of"),
    (
      {"weights": ["bicubic"], "benchmarks": ["sett5"]},
      "Did you mean 'set5'?",
    ),
    (
      {"weights": ["bicubic"], "metrics": ["psnr", "nique"]},
      "metric 'nique' is not one of ['psnr', 'ssim', 'niqe']; did you mean "
      "'niqe'?",
    ),
    (
      {
        "weights": ["bicubic"],
        "scales": [2],
        "metrics": ["niqe"],
        "data_dir": "/no/such",
      },
      "no NIQE prior /no/such/weights/niqe_pris_params.npz: bring the file",
    ),
    (
      {"weights": ["bicubic"], "report_path": "/no/such/out.html"},
      "/no/such/out.html: there is no folder /no/such; make it",
    ),
  ],
)
def test_user_errors_are_one_line(arguments, message, capsys):
  assert run.run(**arguments) == 2
  printed = capsys.readouterr()
  assert not printed.out
  lines = printed.err.strip().splitlines()
  assert len(lines) == 1
  assert message in lines[0]
  assert lines[0].startswith("eval.py: ")


def test_what_enlarges_nothing_is_one_line(tmp_path, capsys):
  model = build(
    "dcgan_generator", latent_features=3, num_features=2, image_size=8
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 3)))
  weights.save(tmp_path / "dcgan.safetensors", model, variables)
  file = str(tmp_path / "dcgan.safetensors")
  assert run.run(weights=[file], benchmarks=["set5"]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1
  assert "is a dcgan_generator, which enlarges nothing" in lines[0]


def test_what_cannot_be_written_is_one_line(folder, tmp_path, capsys):
  os.mkfifo(tmp_path / "pipe")
  options = {"weights": ["nearest"], "benchmarks": [str(folder)], "scales": [2]}
  for path, message in (
    ("/proc/x.json", "/proc/x.json"),
    (str(tmp_path), "is a folder"),
    (str(tmp_path / "pipe"), "is a device"),
  ):
    assert run.run(json_path=path, **options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_wrong_flags_exit_with_2():
  command = [sys.executable, "eval.py"]
  for extra, message in (
    (["--weigths=x"], "weigths"),
    (["--ssim=other"], "ssim"),
    (["--weights=bicubic", "--metrics=pnsr"], "did you mean 'psnr'?"),
    (["set5", "set14"], "'set5' belongs to no flag"),
  ):
    done = subprocess.run(
      command + extra, capture_output=True, text=True, check=False, cwd=_ROOT
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_workdirs(workdir, variables, tmp_path):
  network = networks.load_network(str(workdir))
  assert network.model == _TINY
  assert network.published.key == "fsrcnn_t91"
  assert network.channels == 1
  best = jax.tree.map(lambda x: x + 1, dict(variables))
  folder = tmp_path / "run" / "weights"
  folder.mkdir(parents=True)
  weights.save(folder / "last.safetensors", _TINY, variables)
  weights.save(folder / "best.safetensors", _TINY, best)
  loaded = networks.load_network(str(tmp_path / "run")).variables
  jax.tree.map(np.testing.assert_array_equal, loaded, best)
  with pytest.raises(FileNotFoundError, match="neither weights/best"):
    networks.load_network(str(tmp_path))


def test_another_scale_than_the_weights(workdir, tmp_path, variables):
  with pytest.raises(
    ValueError, match=r"network for x2, and scale 3 was asked"
  ):
    networks.load_network(str(workdir), scale=3)
  weights.save(tmp_path / "net_x2.safetensors", _TINY, variables)
  spec = str(tmp_path / "net_x{scale}.safetensors")
  assert networks.load_network(spec, scale=2).label == "/".join(
    tmp_path.parts[-2:]
  )
  with pytest.raises(FileNotFoundError, match="net_x3"):
    networks.load_network(spec, scale=3)


def test_weights_are_looked_for_beside_the_data(tmp_path, variables):
  weights.save(tmp_path / "weights" / "a" / "net.st", _TINY, variables)
  network = networks.load_network("a/net.st", data_dir=str(tmp_path))
  assert network.model == _TINY
  with pytest.raises(FileNotFoundError, match=r"a/net\.st"):
    networks.load_network("a/net.st", data_dir=str(tmp_path / "a"))


def test_rgb_networks_have_a_row_for_each_colour(folder, tmp_path, capsys):
  model = SRCNN(
    scale=2,
    in_channels=3,
    out_channels=3,
    features=(4, 2),
    kernel_sizes=(3, 1, 3),
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  path = tmp_path / "rgb.safetensors"
  weights.save(path, model, variables)
  out, page = tmp_path / "out.json", tmp_path / "out.html"
  code = run.run(
    weights=[str(path)],
    benchmarks=[str(folder)],
    json_path=str(out),
    report_path=str(page),
  )
  assert code == 0
  records = json.loads(out.read_text())
  assert [r["protocol"]["colour"] for r in records] == ["RGB", "Y"]
  assert records[0]["protocol"]["degradation"] == "MATLAB bicubic, 8-bit LR"
  # The pictures are captioned with the native colour's figures.
  assert f"{records[0]['images'][0]['psnr']:.2f} dB" in page.read_text()
  assert "RGB: PSNR" in capsys.readouterr().out


def test_labels():
  assert networks.label("/data/fsrcnn/x3.mat") == "fsrcnn/x3.mat"
  assert networks.label("/data/srcnn/9-1-5/x{scale}.mat") == "srcnn/9-1-5"
  assert networks.label("runs/fsrcnn/") == "runs/fsrcnn"
  assert networks.label("fsrcnn_s_x{scale}") == "fsrcnn_s"
  assert networks.label("x{scale}.mat") == "x{scale}.mat"


def test_a_perfect_image_is_valid_json():
  assert records._number(float("inf")) == "inf"
  assert tables._signed(-0.001) == "0.00"
  assert tables._signed(0.25) == "+0.25"
