"""The published figures, from the authors' weights on the real images.

Expected are the figures of data/README.md, which were computed by another
program; a range there is what two programs gave.
"""

import json

import pytest

from sr_jax.evaluation import run

pytestmark = pytest.mark.data

_SET5 = {
  ("srcnn/9-1-5_t91", 2): (36.34, 36.34),
  ("srcnn/9-1-5_t91", 3): (32.39, 32.39),
  ("srcnn/9-1-5_t91", 4): (30.08, 30.09),
  ("srcnn/9-1-5_imagenet", 3): (32.52, 32.52),
  ("srcnn/9-3-5_imagenet", 3): (32.65, 32.66),
  ("srcnn/9-5-5_imagenet", 2): (36.66, 36.66),
  ("srcnn/9-5-5_imagenet", 3): (32.75, 32.75),
  ("srcnn/9-5-5_imagenet", 4): (30.48, 30.49),
  ("fsrcnn/fsrcnn", 2): (37.00, 37.00),
  ("fsrcnn/fsrcnn", 3): (33.16, 33.16),
  ("fsrcnn/fsrcnn", 4): (30.70, 30.71),
  ("fsrcnn/fsrcnn_s", 2): (36.57, 36.58),
  ("fsrcnn/fsrcnn_s", 3): (32.60, 32.61),
  ("fsrcnn/fsrcnn_s", 4): (30.11, 30.11),
}
_BICUBIC = {
  ("Set5", 2): (33.65, 33.66),
  ("Set5", 3): (30.39, 30.39),
  ("Set5", 4): (28.42, 28.42),
  ("Set14", 2): (30.23, 30.24),
  ("Set14", 3): (27.54, 27.55),
  ("Set14", 4): (26.00, 26.00),
  ("BSD100", 2): (29.55, 29.56),
  ("BSD100", 3): (27.21, 27.21),
  ("BSD100", 4): (25.96, 25.96),
}


def _records(tmp_path, code=0, **arguments):
  out = tmp_path / "out.json"
  assert run.run(json_path=str(out), **arguments) == code
  return json.loads(out.read_text())


def _within(value, bounds, tolerance=0.01):
  low, high = bounds
  assert low - tolerance <= value <= high + tolerance, (value, bounds)


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted({name for name, _ in _SET5}))
@pytest.mark.usefixtures("optimized")
def test_the_authors_weights_on_set5(network, data_dir, tmp_path):
  scales = [scale for name, scale in _SET5 if name == network]
  records = _records(
    tmp_path,
    weights=[str(data_dir / "weights" / network / "x{scale}.mat")],
    scales=scales,
    benchmarks=["set5"],
    data_dir=str(data_dir),
  )
  assert [record["scale"] for record in records] == scales
  for record in records:
    _within(record["psnr"], _SET5[network, record["scale"]])
    # The same figure is in published.toml, found by what the weights are.
    assert abs(record["published"]["difference"]) < 0.015


@pytest.mark.parametrize(
  "dataset",
  [
    "set5",
    pytest.param("set14", marks=pytest.mark.slow),
    pytest.param("bsd100", marks=pytest.mark.slow),
  ],
)
@pytest.mark.usefixtures("optimized")
def test_bicubic(dataset, data_dir, tmp_path):
  records = _records(
    tmp_path,
    weights=["bicubic"],
    benchmarks=[dataset],
    data_dir=str(data_dir),
  )
  assert [record["scale"] for record in records] == [2, 3, 4]
  for record in records:
    bounds = _BICUBIC[record["dataset"], record["scale"]]
    _within(record["psnr"], bounds)
    _within(record["bicubic_psnr"], bounds)


def test_every_published_figure_has_a_row(data_dir, tmp_path):
  records = _records(
    tmp_path,
    table=["fsrcnn"],
    benchmarks=["set5"],
    scales=[4],
    data_dir=str(data_dir),
    code=1,
  )
  assert [(record["network"], "psnr" in record) for record in records] == [
    ("FSRCNN (T91+General-100)", True),
    ("FSRCNN (T91)", False),  # nobody has its weights
    ("FSRCNN-s (T91+General-100)", True),
  ]
  assert records[1]["published"]["psnr"] == 30.55


def test_scale_is_told_by_the_name_of_a_mat(data_dir, capsys):
  path = data_dir / "weights" / "fsrcnn" / "fsrcnn" / "x3.mat"
  assert run.run(weights=[str(path)], scales=[2]) == 2
  assert "by its name for x3, and scale 2 was asked" in capsys.readouterr().err
