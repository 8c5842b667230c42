"""Weight files from the command line.

python -m sr_jax.weights vgg19 vgg19-dcbb9e9d.pth vgg19.safetensors
"""

import argparse
import sys

from sr_jax.weights.vgg import convert_vgg19


def main(argv: list[str] | None = None) -> int:
  """Runs one of the subcommands; 1 and a message where it cannot."""
  parser = argparse.ArgumentParser(
    prog="python -m sr_jax.weights", description="Weight files."
  )
  commands = parser.add_subparsers(dest="command", required=True)
  vgg19 = commands.add_parser(
    "vgg19",
    help="VGG19's convolutions as safetensors, for perceptual losses",
    description="Writes VGG19's convolutions as safetensors.",
  )
  vgg19.add_argument(
    "source", help="torchvision's .pth, safetensors, or the Caffe .npz"
  )
  vgg19.add_argument("target", help="the .safetensors to write")
  arguments = parser.parse_args(argv)
  try:
    convs = convert_vgg19(arguments.source, arguments.target)
  except (OSError, ValueError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 1
  print(f"{arguments.target}: {convs[0]} to {convs[-1]}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
