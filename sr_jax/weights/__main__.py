"""Weight files from the command line.

python -m sr_jax.weights inspect ESRGAN.pth
python -m sr_jax.weights convert ESRGAN.pth esrgan.safetensors
python -m sr_jax.weights diff before.pth after.safetensors
python -m sr_jax.weights vgg19 vgg19-dcbb9e9d.pth vgg19.safetensors
"""

import argparse
import sys

from sr_jax.weights import commands


def main(argv: list[str] | None = None) -> int:
  """Runs one of the subcommands; 2 and a message where it cannot."""
  parser = argparse.ArgumentParser(
    prog="python -m sr_jax.weights", description="Weight files."
  )
  subparsers = parser.add_subparsers(dest="command", required=True)

  def add(name: str, does: str, *files: tuple[str, str]):
    subparser = subparsers.add_parser(name, help=does, description=does)
    for file, what in files:
      subparser.add_argument(file, help=what)
    return subparser

  weights = "a .pth, .safetensors, .mat, .param or .bin"
  inspect = add("inspect", "tells what a weight file holds", ("file", weights))
  inspect.add_argument("--layers", action="store_true", help="list its arrays")
  convert = add(
    "convert",
    "writes weights for sr_jax (.safetensors) or for PyTorch (.pth)",
    ("source", weights),
    ("target", "the .safetensors or .pth to write"),
  )
  convert.add_argument(
    "--torch",
    action="store_true",
    help="the names and layouts of PyTorch in a .safetensors too",
  )
  diff = add(
    "diff",
    "compares two weight files, layer by layer; 1 where they differ",
    ("first", weights),
    ("second", weights),
  )
  for subparser in (inspect, convert, diff):
    subparser.add_argument(
      "--scale", type=int, help="enlargement, where the file does not say it"
    )
  add(
    "vgg19",
    "writes VGG19's convolutions as safetensors, for perceptual losses",
    ("source", "torchvision's .pth, safetensors, or the Caffe .npz"),
    ("target", "the .safetensors to write"),
  )
  options = vars(parser.parse_args(argv))
  command = getattr(commands, options.pop("command"))
  try:
    return command(**options)
  except (OSError, ValueError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main())
