"""Draws curves of runs, from their metrics.jsonl, as docs/reproducing.md has.

python docs/curves.py runs/esrgan --keys=set14/psnr,set14/niqe,d_gap \
  --out=docs/images/esrgan.png

Needs matplotlib, which sr_jax itself does not.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
  """Reads the flags, draws, writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=pathlib.Path, help="workdirs")
  parser.add_argument("--keys", required=True, help="one panel each")
  parser.add_argument("--out", required=True, type=pathlib.Path)
  args = parser.parse_args()
  keys = args.keys.split(",")
  _, axes = plt.subplots(
    1, len(keys), figsize=(3.6 * len(keys), 2.8), squeeze=False
  )
  for run in args.runs:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    for key, axis in zip(keys, axes[0], strict=True):
      found = [(p["step"], p[key]) for p in points if key in p]
      if found:
        axis.plot(*zip(*found, strict=True), label=run.name)
  for key, axis in zip(keys, axes[0], strict=True):
    axis.set_title(key)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
  plt.tight_layout()
  plt.savefig(args.out, dpi=110)


if __name__ == "__main__":
  main()
