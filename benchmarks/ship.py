"""The small networks that come with the package: from runs to files and card.

`SR_JAX_DATA=/my/sets python benchmarks/ship.py [--runs runs] [NAME ...]` takes
the last weights (not the best: those are chosen on Set5) of each run below,
measures them, writes `sr_jax/weights/zoo/NAME.safetensors`, and makes the model
card, `README.md` there, of all files that are there. A run that is not that of
its command, or not at its end, is refused.
"""

import argparse
import hashlib
import importlib
import json
import pathlib
import sys

_ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))

from sr_jax import weights  # noqa: E402
from sr_jax.evaluation import benchmark, published  # noqa: E402
from sr_jax.weights import tree  # noqa: E402
from sr_jax.weights.native import read_record  # noqa: E402

#: Name -> the run's folder, and what follows `--config=configs/`.
NETWORKS = {
  "fsrcnn_x2": (
    "fsrcnn_x2_muon_from",
    "fsrcnn.py:x2,muon,from=runs/fsrcnn_x3_muon",
  ),
  "fsrcnn_x3": ("fsrcnn_x3_muon", "fsrcnn.py:x3,muon"),
  "fsrcnn_x4": (
    "fsrcnn_x4_muon_from",
    "fsrcnn.py:x4,muon,from=runs/fsrcnn_x3_muon",
  ),
  "fsrcnn_s_x2": (
    "fsrcnn_s_x2_muon_from",
    "fsrcnn.py:small,x2,muon,from=runs/fsrcnn_s_x3_muon",
  ),
  "fsrcnn_s_x3": ("fsrcnn_s_x3_muon", "fsrcnn.py:small,x3,muon"),
  "fsrcnn_s_x4": (
    "fsrcnn_s_x4_muon_from",
    "fsrcnn.py:small,x4,muon,from=runs/fsrcnn_s_x3_muon",
  ),
  "srcnn_x2": (
    "srcnn_915_x2_muon_from",
    "srcnn.py:x2,muon,from=runs/srcnn_915_x3_muon",
  ),
  "srcnn_x3": ("srcnn_915_x3_muon", "srcnn.py:x3,muon"),
  "srcnn_x4": (
    "srcnn_915_x4_muon_from",
    "srcnn.py:x4,muon,from=runs/srcnn_915_x3_muon",
  ),
}
_SETS = ("Set5", "Set14", "BSD100")
_FOLDER = _ROOT / "sr_jax" / "weights" / "zoo"

_HEAD = """# The networks that come with sr_jax

`weights.load("fsrcnn_x3")`, `eval.py --weights=fsrcnn_x3`. FSRCNN(56, 12, 4),
FSRCNN-s(32, 5, 1) and SRCNN 9-1-5 (Dong et al. 2016), trained from scratch by
sr_jax on T91 + BSD200, the classical 291 images, on a CPU core. They restore
the luma of pictures that were made small by bicubic interpolation (MATLAB's
`imresize`); of pictures that were made small otherwise, or compressed, they
also sharpen what is wrong with them. What they learned from are photographs of
research sets whose terms name no use beyond research; no picture is in them.
Parameters are Apache-2.0, as the code is.

Made by `python benchmarks/ship.py`, as this page is. Checked by
`tests/weights/test_shipped.py`.

## Figures

PSNR in dB and SSIM on Y, mean over the images; low resolution by MATLAB's
bicubic of 8-bit Y, not quantised; output rounded to 8 bits, as many pixels cut
off each edge as the scale. Published: Set5, the authors' networks trained on
T91 alone (FSRCNN-s: with General-100 as well).

| network | parameters | Set5 | published | Set14 | BSD100 |
|---|---|---|---|---|---|
"""
_TRAINING = """
## Training

In a checkout of sr_jax; `SR_JAX_DATA` is the folder that holds `T91` and
`BSD200`. The last weights of each run are taken, not the best, which are chosen
on Set5; but x2 and x4 begin from the best of the x3 run, and the recipe's rate
and loss were chosen by looks at Set5.

| network | command | steps | seed |
|---|---|---|---|
"""
_FILES = """
## Files

| file | bytes | sha256 |
|---|---|---|
"""


def config_of(recipe: str) -> dict:
  """The config of "fsrcnn.py:x3,muon", as a weight file holds it."""
  module, _, variant = recipe.partition(".py:")
  config = importlib.import_module(f"configs.{module}").get_config(variant)
  return json.loads(json.dumps(config.to_dict()))


def ship(name: str, runs: pathlib.Path) -> None:
  """Measures a run's last weights and writes them into the package."""
  folder = runs / NETWORKS[name][0]
  source = folder / "weights" / "last.safetensors"
  model, variables = weights.load(source)
  record = read_record(source)
  figures = {"step": record["figures"]["step"]}
  recipe = config_of(NETWORKS[name][1])
  if (record["config"], figures["step"]) != (recipe, recipe["steps"]):
    raise ValueError(
      f"{source} is at step {figures['step']:,} of {recipe['steps']:,}, or of "
      f"a run whose config is not that of configs/{NETWORKS[name][1]}"
    )
  for dataset in _SETS:
    prepared = benchmark.prepare(dataset, scale=model.scale, channels=1)
    result = benchmark.evaluate(model, variables, prepared)
    figures[dataset] = {
      "psnr": round(result.psnr, 4),
      "ssim": round(result.ssim, 4),
      "protocol": str(result.protocol),
    }
  target = _FOLDER / f"{name}.safetensors"
  weights.save(
    target, model, variables, config=record["config"], figures=figures
  )
  print(target, figures)


def card() -> str:
  """The page."""
  figures, training, files = [], [], []
  for name, (_, recipe) in NETWORKS.items():
    path = _FOLDER / f"{name}.safetensors"
    if not path.exists():
      continue
    record, data = read_record(path), path.read_bytes()
    model, variables = weights.load(path)
    count = sum(x.size for x in tree.flatten(variables).values())
    entry = published.published()[record["config"]["published"]]
    figure = entry.find("Set5", model.scale, "Y")
    measured = [
      f"{found['psnr']:.2f} / {found['ssim']:.4f}"
      for found in (record["figures"][dataset] for dataset in _SETS)
    ]
    measured.insert(1, f"{figure.psnr:.2f}")
    figures.append(f"| {name} | {count:,} | {' | '.join(measured)} |")
    training.append(
      f"| {name} | `python train.py --config=configs/{recipe}` |"
      f" {record['figures']['step']:,} | {record['config']['seed']} |"
    )
    digest = hashlib.sha256(data).hexdigest()
    files.append(f"| {path.name} | {len(data):,} | `{digest}` |")
  tables = (_HEAD, figures), (_TRAINING, training), (_FILES, files)
  return "".join(head + "\n".join(rows) + "\n" for head, rows in tables)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", help=", ".join(NETWORKS))
  parser.add_argument("--runs", type=pathlib.Path, default=_ROOT / "runs")
  args = parser.parse_args()
  for name in args.names:
    if name not in NETWORKS:
      parser.error(f"'{name}' is not one of {list(NETWORKS)}")
    try:
      ship(name, args.runs)
    except (OSError, ValueError) as error:
      parser.error(str(error))
  (_FOLDER / "README.md").write_text(card())


if __name__ == "__main__":
  main()
