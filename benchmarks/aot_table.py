"""Every recipe compiled for TPUs, and what it takes to feed them.

`python benchmarks/aot_table.py [--only esrgan] [--topologies v5e:2x2,...]`
compiles what docs/aot.json does not have yet (seconds to an hour each), adds
each as it is done, and writes docs/aot.md from all. `--render` writes alone.
A chip's batch is that of four chips which share the published batch, on every
topology, so that sizes of pods can be compared; bfloat16.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))

from sr_jax.training import aot  # noqa: E402

#: A recipe and its variant, by the name of its row.
RECIPES = {
  "Quickstart": ("quickstart", ""),
  "SRCNN": ("srcnn", ""),
  "FSRCNN": ("fsrcnn", ""),
  "SRResNet": ("srresnet", ""),
  "MSRResNet": ("msrresnet", ""),
  "EDSR": ("edsr", ""),
  "EDSR, large": ("edsr", "large"),
  "SRGAN": ("srgan", ""),
  "ESRGAN, stage 1": ("esrgan", "psnr"),
  "ESRGAN": ("esrgan", ""),
  "DCGAN": ("dcgan", ""),
  "EDVR-M": ("edvr", ""),
  "EDVR-L": ("edvr", "l"),
  "BasicVSR": ("basicvsr", ""),
  "IconVSR": ("iconvsr", ""),
  "BasicVSR++": ("basicvsr_plusplus", ""),
}
# Of four chips, v5e:2x2, which share the published batch.
_SHARES = 4
TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")

#: Chips of a slice that a host feeds.
_PER_HOST = 4
#: Share of a chip's best that a step is taken to reach.
_USE = 0.4
#: What docs/data.md has measured, in milliseconds of a core: to read what a
#: crop is cut from, once for all crops that are cut from it; and to cut one.
_IMAGE = {"read": 0.95, "cut": 0.12, "pixels": 480**2}
_CLIP = {
  "read": 52,
  "cut": 5,
  "frames": 15,
  "pixels": 15 * (1200 * 800 + 960 * 540) / 2,
}
#: A crop of a set that is kept in memory.
_IN_MEMORY = ("photos", "t91", "t91+bsd200")
_KEPT = 1 / 36
#: Pixels of a frame of the clips that recipes learn from.
_FRAME = {"reds": 1280 * 720}
#: vCPUs of a host with four chips: cloud.google.com/tpu/docs and /compute/docs,
#: machine types ct4p-, ct5lp-, ct5p-hightpu-4t and ct6e-standard-4t.
_CORES = {"v4": 240, "v5e": 112, "v5p": 208, "v6e": 180}
_HOSTS = ", ".join(f"{cores} ({name})" for name, cores in _CORES.items())
#: Crops of an image beyond which none are proposed.
_MOST = 64

_HEAD = """# Compiled for TPUs that are not there

Made by `python benchmarks/aot_table.py`; see [tpu.md](tpu.md). bfloat16. A chip
has on every topology what it has where four (v5e:2x2) share the published
batch. Memory in GB of one chip; FLOP of a chip's part of a step as it is
written, exchanges of a chip as it is compiled, loops counted in full. Compiled
on two cores, beside other work and on more than one machine: a row's time is no
measure of the topology.

| recipe | topology | batch a chip | held | temporaries | fits | TFLOP a step \
| exchanges | compiled in |
|---|---|---|---|---|---|---|---|---|
"""
_FEEDING = f"""
## Feeding them

What a host has to deliver where a step reaches {_USE:.0%} of a chip's best in
bfloat16: crops a second = chips of a host x batch a chip x {_USE} x FLOP/s of
the chip / FLOP of the step. The cores that takes come from what
[data.md](data.md#speed) has measured. Of images, {_IMAGE["read"]} ms to read a
record of 480x480 and {_IMAGE["cut"]} ms to cut a crop of it (which give its
1.07 ms for one crop of each and 0.36 for four). Of clips, whose
frames are read whole, {_CLIP["read"]} ms for 15 frames of 1200x800 or 960x540
and {_CLIP["cut"]} ms for a crop of them; in proportion for others. Sets that
are kept in memory (of the quickstart, SRCNN and FSRCNN) are cut by one thread,
36,000 crops a second, and no cores make it more. What workers cut all goes
through one process of the host, whose own limit was not measured: 36,000 small
crops a second is the most that was seen of one, and a row far above that is a
bound.

A host has {_HOSTS} cores (vCPU) with four chips. Where one
crop an image takes more, the last column says how many it takes of each
(`config.data.crops_per_image`); "none" is where cutting alone takes more.
`config.data.num_workers` is to be about the cores that are used; recipes have
4, DCGAN's none. Networks of a few thousand parameters (SRCNN, FSRCNN) come
nowhere near that use: their figures are a bound that no step reaches.

| recipe | topology | crops a second and host | cores, one crop an image | \
crops an image |
|---|---|---|---|---|
"""

_TABLE, _PAGE = _ROOT / "docs" / "aot.json", _ROOT / "docs" / "aot.md"


def _recipe(name: str):
  module, variant = RECIPES[name]
  config = importlib.import_module(f"configs.{module}").get_config(variant)
  with config.unlocked():
    config.model.dtype = "bfloat16"
    config.init_parts = {}
  return config


def compile_row(name: str, topology: str) -> dict:
  """One cell of the table, as JSON has it."""
  config = _recipe(name)
  chips = aot.count_chips(topology)
  each = math.ceil(config.data.batch_size / _SHARES)
  start = time.perf_counter()
  try:
    found = aot.compile_for(config, topology, each=each)
  except aot.DoesNotFitError as error:
    return {"chips": chips, "each": each, "problem": str(error)}
  return {
    "chips": chips,
    "each": each,
    "held": found.arguments,
    "temporaries": found.temporaries,
    "memory": found.chip.memory,
    "flops": found.cost.flops,
    "exchanges": {
      k: [e.count, e.bytes] for k, e in found.cost.collectives.items()
    },
    "compile_s": round(found.seconds, 1),
    "command_s": round(time.perf_counter() - start, 1),
  }


def _cost(config, crops: int) -> float:
  """Seconds of a core for a crop, with so many cut from each image."""
  fields = config.data
  if fields.train in _IN_MEMORY:
    return _KEPT / 1e3
  frames = fields.num_frames
  if not frames:
    size = fields.sub_image_size**2 / _IMAGE["pixels"]
    return (size * _IMAGE["read"] / crops + _IMAGE["cut"]) / 1e3
  size = frames * _FRAME[fields.train] / _CLIP["pixels"]
  cut = frames / _CLIP["frames"] * _CLIP["cut"]
  return (size * _CLIP["read"] / crops + cut) / 1e3


def _feeding(name: str, topology: str, row: dict) -> str:
  config, generation = _recipe(name), topology.partition(":")[0]
  chips = min(row["chips"], _PER_HOST)
  flops = aot.CHIPS[generation].flops
  rate = chips * row["each"] * _USE * flops / max(row["flops"], 1)
  cores = f"{max(rate * _cost(config, 1), 0.1):,.1f}"
  if config.data.train in _IN_MEMORY:
    cores = "1 thread"
  enough = (
    str(crops)
    for crops in range(1, _MOST + 1)
    if rate * _cost(config, crops) <= _CORES[generation]
  )
  return (
    f"| {name} | {topology} | {rate:,.0f} | {cores} | {next(enough, 'none')} |"
  )


def _exchanges(row: dict) -> str:
  told = [
    f"{n} {k}, {b / 1e6:.1f} MB" for k, (n, b) in row["exchanges"].items()
  ]
  return "; ".join(told) or "none"


def _growth(table: dict) -> str:
  """Temporaries of a chip, on 256 against on 4, of one generation."""
  grown = []
  for name in RECIPES:
    few, many = (table.get(f"{name} @ {t}") for t in ("v5e:2x2", "v5e:16x16"))
    if few and many and "problem" not in few.keys() | many.keys():
      more = many["temporaries"] - few["temporaries"]
      grown.append((more / 1e6, more / few["temporaries"], name))
  if not grown:
    return ""
  told = [
    f"{name} {more:.2f} MB ({share:.1%})"
    for more, share, name in sorted(grown, reverse=True)
    if more > 0
  ]
  return (
    "From 4 to 256 chips (v5e:2x2, v5e:16x16), with as much a chip, its "
    f"temporaries do not grow in {len(grown) - len(told)} of {len(grown)} "
    f"recipes; in the others by: {', '.join(told) or 'nothing'}.\n"
  )


def render(table: dict) -> str:
  """The page."""
  lines, feeding = [], []
  for name in RECIPES:
    for topology in TOPOLOGIES:
      row = table.get(f"{name} @ {topology}")
      if row is None:
        continue
      if "problem" in row:
        lines.append(
          f"| {name} | {topology} | {row['each']} | | | **no** | | |"
          f" {row['problem'][-160:]} |"
        )
        continue
      over = row["held"] + row["temporaries"] - row["memory"]
      fits = "yes" if over <= 0 else f"**{over / 1e9:.1f} GB too much**"
      lines.append(
        f"| {name} | {topology} | {row['each']} | {row['held'] / 1e9:.2f} | "
        f"{row['temporaries'] / 1e9:.2f} | {fits} | {row['flops'] / 1e12:.3g} "
        f"| {_exchanges(row)} | {row['compile_s']:.0f} s |"
      )
      feeding.append(_feeding(name, topology, row))
  spent = sum(row.get("command_s", 0) for row in table.values()) / 60
  count = len(RECIPES) * len(TOPOLOGIES)
  text = (
    "\n".join(lines)
    + f"\n\n{len(table)} of {count} rows, in {spent:.0f} minutes.\n\n"
    + _growth(table)
  )
  return _HEAD + text + _FEEDING + "\n".join(feeding) + "\n"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", help="rows whose name has this")
  parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
  parser.add_argument("--render", action="store_true")
  args = parser.parse_args()
  table = json.loads(_TABLE.read_text()) if _TABLE.exists() else {}
  for topology in args.topologies.split(",") if not args.render else ():
    for name in RECIPES:
      key = f"{name} @ {topology}"
      if args.only.lower() in name.lower() and key not in table:
        table[key] = compile_row(name, topology)
        print(key, table[key], flush=True)
        _TABLE.write_text(json.dumps(table, indent=1) + "\n")
  _PAGE.write_text(render(table))


if __name__ == "__main__":
  main()
