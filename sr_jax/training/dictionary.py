"""Learns sparse coding's dictionaries, which no gradient descent does.

python -m sr_jax.training.dictionary --images=t91 --output=x3.safetensors
"""

import argparse
import sys
import time

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import Progress

from sr_jax import weights
from sr_jax.data import load_images
from sr_jax.evaluation import records, tables
from sr_jax.evaluation.benchmark import evaluate, prepare
from sr_jax.files import check_target
from sr_jax.models.sparse_coding import SparseCoding, fit
from sr_jax.ops.color import rgb_to_y


def main(argv: list[str] | None = None) -> int:
  """Learns, measures on Set5, writes; 2 and a message where it cannot."""
  parser = argparse.ArgumentParser(
    prog="python -m sr_jax.training.dictionary",
    description="Learns the dictionaries of sparse-coding super-resolution.",
  )
  parser.add_argument("--images", default="t91", help="a set or a folder")
  parser.add_argument("--data_dir", help="folder of the sets; SR_JAX_DATA")
  parser.add_argument("--scale", type=int, default=3, help="enlargement")
  parser.add_argument("--atoms", type=int, default=1024, help="of a dictionary")
  parser.add_argument(
    "--patches", type=int, default=100_000, help="learned from, at most"
  )
  parser.add_argument(
    "--batches", type=int, default=200, help="that correct the dictionaries"
  )
  parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
  parser.add_argument(
    "--benchmark", default="set5", help="measured on at the end"
  )
  parser.add_argument("--output", required=True, help="the .safetensors")
  arguments = parser.parse_args(argv)
  try:
    _run(arguments)
  except (OSError, ValueError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2
  return 0


def _run(arguments: argparse.Namespace) -> None:
  output = epath.Path(arguments.output).expanduser()
  if output.suffix != ".safetensors":
    raise ValueError(f"--output: '{output}' does not end in .safetensors")
  check_target(output)
  for name in ("scale", "atoms", "patches", "batches"):
    if (value := getattr(arguments, name)) < 1:
      raise ValueError(f"--{name}: {value} is not a positive number")
  images = load_images(arguments.images, data_dir=arguments.data_dir)
  benchmark = prepare(
    arguments.benchmark,
    scale=arguments.scale,
    channels=1,
    images=load_images(arguments.benchmark, data_dir=arguments.data_dir),
  )
  model = SparseCoding(scale=arguments.scale, num_atoms=arguments.atoms)
  console = Console(stderr=True)
  started = time.monotonic()
  with Progress(console=console, disable=not console.is_terminal) as progress:
    task = progress.add_task("dictionaries", total=arguments.batches)
    variables = fit(
      model,
      [np.asarray(rgb_to_y(x.astype(np.float32) / 255)) for _, x in images],
      jax.random.key(arguments.seed),
      num_patches=arguments.patches,
      num_batches=arguments.batches,
      on_batch=lambda count: progress.update(task, completed=count),
    )
    jax.block_until_ready(variables)
  seconds = time.monotonic() - started
  result = evaluate(model, variables, benchmark)
  row = tables.Row(
    label="sparse coding",
    dataset=benchmark.dataset,
    scale=arguments.scale,
    result=result,
  )
  tables.print_table([row], Console())
  config = {**vars(arguments), "seconds": round(seconds)}
  weights.save(
    output,
    model,
    variables,
    config=config,
    figures=records.as_json([row])[0],
  )
  print(
    f"{output}: learned in {seconds:.0f} s; "
    f"{result.seconds / len(benchmark.images):.2f} s an image"
  )


if __name__ == "__main__":
  sys.exit(main())
