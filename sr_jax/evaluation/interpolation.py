"""Between a PSNR network and a GAN network: a table, and a strip of pictures.

python -m sr_jax.evaluation.interpolation runs/esrgan_psnr runs/esrgan_gan \
  --image=baboon.png --alphas=0,0.2,0.4,0.6,0.8,1 --strip=strip.png

Source: Wang et al. 2018 (ESRGAN), sec. 3.4.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import cv2
import numpy as np
from etils import epath
from rich.console import Console

from sr_jax import weights
from sr_jax.data import Images, load_images
from sr_jax.evaluation import pictures, records, tables
from sr_jax.evaluation.benchmark import (
  PreparedBenchmark,
  evaluate,
  find_niqe_prior,
  ground_truth,
  prepare,
)
from sr_jax.evaluation.networks import INTERPOLATIONS, Network, load_enlarger
from sr_jax.files import check_target, write_whole
from sr_jax.models import describe
from sr_jax.weights.interpolation import check_alpha

#: Side of the square that is shown, in pixels of the ground truth.
_WINDOW = 128
_ALPHA = "{alpha}"
#: Arguments that say how a network is computed, and not which one it is.
_HOW = ("dtype", "remat")


class _Parser(argparse.ArgumentParser):
  """One line for a mistake."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f"{self.prog}: {message}; see --help\n")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; 2 and a line where it cannot."""
  parser = _parser()
  arguments = parser.parse_args(argv)
  try:
    _run(arguments)
  except (OSError, ValueError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2
  return 0


def load_pair(psnr: str, gan: str) -> tuple[Network, Network]:
  """Two sets of weights of one network.

  Args:
    psnr: A weight file, or the workdir of a training run.
    gan: Another.

  Returns:
    Both. Their `dtype` and `remat` may differ.

  Raises:
    FileNotFoundError: there is no such file, or no weights in the workdir.
    ValueError: not weights of a network that enlarges, or of two networks; the
      message says in what they differ.
  """
  first, second = (_load(spec) for spec in (psnr, gan))
  (name, own), (other, others) = (describe(x.model) for x in (first, second))
  differences = [f"{name} and {other}"] if name != other else []
  if name == other:
    differences = [
      f"{key} {own[key]} and {others[key]}"
      for key in own
      if own[key] != others[key] and key not in _HOW
    ]
  if differences:
    raise ValueError(
      f"{psnr} and {gan} are not of one network: {', '.join(differences)}; "
      "fine-tune the second from the first"
    )
  return first, second


def draw_strip(
  outputs: dict[float, np.ndarray], image: np.ndarray, *, scale: int
) -> np.ndarray:
  """The most detailed window of a picture by every alpha, in a row.

  Args:
    outputs: What the network of each alpha made of it, 8 bits, Y or RGB.
    image: Ground truth, 8 bits; see `pictures.panels`.
    scale: Enlargement.

  Returns:
    uint8 RGB, with low resolution and bicubic before and ground truth after.
  """
  panels = pictures.panels(
    image,
    {_label(alpha): output for alpha, output in outputs.items()},
    scale=scale,
  )
  window = pictures.busiest_window(panels, _WINDOW)
  return pictures.side_by_side({k: v[window] for k, v in panels.items()})


def _parser() -> _Parser:
  parser = _Parser(
    prog="python -m sr_jax.evaluation.interpolation",
    description="Interpolates two networks, measures and draws the result.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  what = "a weight file, or the workdir of a training run"
  add("psnr", metavar="PSNR_WEIGHTS", help=f"alpha 0: {what}")
  add("gan", metavar="GAN_WEIGHTS", help=f"alpha 1: {what}")
  add(
    "--image",
    required=True,
    help="ground truth: a file, or a set or folder, whose mean figures are "
    "printed and of which the picture that bicubic restores worst is drawn",
  )
  add("--strip", required=True, help="the .png to write")
  add("--alphas", default="0,0.2,0.4,0.6,0.8,1", help="default %(default)s")
  add(
    "--out",
    help=f"write the weights of each alpha: 'mixed_{_ALPHA}.safetensors'",
  )
  add("--data_dir", help="folder of the sets; else SR_JAX_DATA")
  add(
    "--niqe_prior",
    help="file; else weights/niqe_pris_params.npz of data_dir, and without it "
    "no NIQE",
  )
  add(
    "--no_niqe",
    action="store_true",
    help="leave NIQE out: it needs two blocks of 96x96 pixels",
  )
  return parser


def _run(arguments: argparse.Namespace) -> None:
  alphas = _alphas(arguments.alphas)
  strip, out = epath.Path(arguments.strip).expanduser(), arguments.out
  if strip.suffix.lower() != ".png":
    raise ValueError(f"--strip: '{strip}' does not end in .png")
  if out and _ALPHA not in out and len(alphas) > 1:
    raise ValueError(f"--out: '{out}' needs {_ALPHA}, a file for each of them")
  for alpha in alphas if out else ():
    path = _out(out, alpha)
    if path.suffix != ".safetensors":
      raise ValueError(f"--out: '{path}' does not end in .safetensors")
    check_target(path)
  check_target(strip)
  first, second = load_pair(arguments.psnr, arguments.gan)
  benchmark = _prepare(arguments, first)
  scores = [figures["bicubic_psnr"] for figures in benchmark.beside["Y"]]
  shown = int(np.argmin(scores))
  strip.parent.mkdir(parents=True, exist_ok=True)
  rows, outputs = [], {}
  for alpha in alphas:
    variables = weights.interpolate(first.variables, second.variables, alpha)
    result = evaluate(first.model, variables, benchmark, keep_outputs=True)
    outputs[alpha] = result.outputs[shown]
    row = tables.Row(
      label=_label(alpha),
      dataset=benchmark.dataset,
      scale=benchmark.scale,
      result=result.on_luma or result,
    )
    rows.append(row)
    if out:
      path = _out(out, alpha)
      _save(path, first.model, variables, alpha, row, arguments)
  name, image = ground_truth(benchmark.images, shown)
  picture = draw_strip(outputs, image, scale=benchmark.scale)
  _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
  write_whole(strip, png.tobytes())
  console = Console(highlight=False)
  if not console.is_terminal:
    console = Console(width=120, highlight=False)
  tables.print_table(rows, console)
  for line in (
    f"alpha 0 is {arguments.psnr}, alpha 1 is {arguments.gan}",
    f"{strip}: {name}, where bicubic is furthest from the ground truth",
  ):
    console.print(line, markup=False, soft_wrap=True)


def _out(out: str, alpha: float) -> epath.Path:
  return epath.Path(out.replace(_ALPHA, _text(alpha))).expanduser()


def _alphas(text: str) -> list[float]:
  """The numbers between the commas, each once."""
  alphas = []
  for part in text.split(","):
    try:
      alpha = float(part)
    except ValueError:
      raise ValueError(
        f"--alphas: '{part}' is not a number; give --alphas=0,0.5,1"
      ) from None
    try:
      check_alpha(alpha)
    except ValueError as error:
      raise ValueError(f"--alphas: {error}") from None
    if alpha in alphas:
      raise ValueError(f"--alphas: {_text(alpha)} is there twice")
    alphas.append(alpha)
  return alphas


def _load(spec: str) -> Network:
  """As `load_enlarger`, of what has weights."""
  if spec in INTERPOLATIONS:
    raise ValueError(f"'{spec}' has no weights; give a file or a workdir")
  return load_enlarger(spec)


def _prepare(
  arguments: argparse.Namespace, network: Network
) -> PreparedBenchmark:
  """The picture or pictures, degraded for this network."""
  file = epath.Path(arguments.image).expanduser()
  if file.is_file():
    images = Images([file])
  else:
    images = load_images(arguments.image, data_dir=arguments.data_dir)
  prior = None
  if not arguments.no_niqe:
    try:
      prior = find_niqe_prior(arguments.niqe_prior, data_dir=arguments.data_dir)
    except FileNotFoundError as error:
      if arguments.niqe_prior:
        raise
      print(f"without NIQE: {error}", file=sys.stderr)
  return prepare(
    arguments.image,
    scale=network.model.scale,
    channels=network.channels,
    images=images,
    metrics=("psnr", "ssim") if prior is None else ("psnr", "ssim", "niqe"),
    niqe_prior=prior,
  )


def _save(
  path: epath.Path,
  model: Any,
  variables: dict[str, Any],
  alpha: float,
  row: tables.Row,
  arguments: argparse.Namespace,
) -> None:
  """The weights of one alpha, with what they were made of and measured."""
  origin = {"psnr": arguments.psnr, "gan": arguments.gan, "alpha": alpha}
  weights.save(
    path,
    model,
    variables,
    # Nothing was published of a mixture.
    config={"published": "", "interpolation": origin},
    figures=records.as_json([row])[0],
  )


def _text(alpha: float) -> str:
  """0, 0.2, 1: the shortest that tells it."""
  return np.format_float_positional(alpha, trim="-")


def _label(alpha: float) -> str:
  return f"alpha {_text(alpha)}"


if __name__ == "__main__":
  sys.exit(main())
