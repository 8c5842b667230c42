"""The step compiled for TPUs that are not there, in a process of its own.

libtpu takes the whole process over, and warns.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from sr_jax.training import aot

_ROOT = pathlib.Path(__file__).parents[2]

_needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu, the TPU compiler, is not installed: pip install sr_jax[aot]",
)

_COMPILE = """
import json, sys
from absl import flags
flags.FLAGS.mark_as_parsed()
sys.path.insert(0, {root!r})
from configs import esrgan
from sr_jax.training.aot import compile_for

config = esrgan.get_config()
config.model.update(num_features=8, num_blocks=2, growth_features=4,
                    dtype="bfloat16")
config.discriminator.num_features = 4
with config.unlocked():
  config.perceptual.layer_weights = {{"conv2_2": 1.0}}
told = []
for topology in ["v5e:2x2", "v5e:3x5x7"]:
  try:
    found = compile_for(config, topology, batch_per_chip=2)
  except ValueError as error:
    told.append({{"error": str(error)}})
    continue
  told.append({{"text": str(found), "fits": found.fits, "chips": found.chips,
    "batch_size": found.batch_size, "arguments": found.arguments,
    "temporaries": found.temporaries, "collectives": found.collectives,
    "hlo": found.hlo}})
assert config.data.batch_size == 16  # its own config is left as it was
print(json.dumps(told))
"""


@pytest.mark.slow
@_needs_libtpu
def test_esrgan_compiles_for_four_chips():
  """Stage 2, reduced: RRDBNet against the U-Net, and VGG19 up to conv2_2."""
  names = ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD")
  out = subprocess.run(
    [sys.executable, "-c", _COMPILE.format(root=str(_ROOT))],
    capture_output=True,
    text=True,
    check=False,
    env={k: v for k, v in os.environ.items() if k not in names}
    | {"JAX_PLATFORMS": "cpu"},
  )
  assert out.returncode == 0, out.stderr[-4000:]
  plain, refused = json.loads(out.stdout.splitlines()[-1])

  assert plain["fits"]
  assert (plain["chips"], plain["batch_size"]) == (4, 8)
  # Data parallel: gradients and means are summed, no parameter moves.
  assert set(plain["collectives"]) == {"all-reduce"}
  assert "v5e:2x2, 4 chips, batch 8 (2 a chip)" in plain["text"]
  assert "it fits" in plain["text"]
  # All three networks compute in bfloat16; the degradation's two products,
  # which make the image, in float32.
  made = re.findall(
    r'= (\w+)\[[\d,]+\]\S* convolution\(.*op_name="([^"]*)"', plain["hlo"]
  )
  assert sum(kind == "bf16" for kind, _ in made) > 50
  exact = [name for kind, name in made if kind == "f32"]
  assert len(exact) == 2
  assert all("hwc->" in name for name in exact)

  assert (
    "--aot v5e:3x5x7: the TPU compiler is not there or does"
    in (refused["error"])
  )
  assert "sr_jax[aot]" in refused["error"]


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "", "2x2"])
def test_what_is_no_topology_is_refused(topology):
  with pytest.raises(ValueError, match=r"is not one of \['v4', 'v5e'"):
    aot.compile_for(None, topology)


def test_what_does_not_fit_is_told():
  found = aot.Compiled(
    topology="v5e:4x4",
    chips=16,
    batch_size=24,
    seconds=61.4,
    arguments=9_000_000_000,
    temporaries=7_500_000_000,
    collectives={"all-reduce": 3},
    hlo="",
  )
  assert not found.fits  # 16.5 GB
  assert str(found) == (
    "v5e:4x4, 16 chips, batch 24 (1.5 a chip): compiled in 61 s; a chip holds "
    "9.00 GB and needs 7.50 GB of temporaries of its 16 GB: it does not fit; "
    "exchanges: 3 all-reduce"
  )
