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

import jax
import pytest
from ml_collections import ConfigDict

from configs import quickstart
from sr_jax.training import aot
from sr_jax.training.hlo import Cost, Exchange

_ROOT = pathlib.Path(__file__).parents[2]

_needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu, the TPU compiler, is not installed: pip install sr_jax[aot]",
)

_COMPILE = """
from configs import esrgan
from sr_jax.training.aot import compile_for

config = esrgan.get_config()
config.model.update(num_features=8, num_blocks=2, growth_features=4,
                    dtype="bfloat16")
config.discriminator.num_features = 4
with config.unlocked():
  config.perceptual.layer_weights = {"conv2_2": 1.0}
told = []
for topology in ["v5e:2x2", "v5e:3x5x7"]:
  try:
    found = compile_for(config, topology, each=2)
  except ValueError as error:
    told.append({"error": str(error)})
    continue
  told.append({"text": str(found), "fits": found.fits, "chips": found.chips,
    "batch_size": found.batch_size, "arguments": found.arguments,
    "temporaries": found.temporaries, "flops": found.cost.flops,
    "collectives": sorted(found.cost.collectives),
    "hlo": found.hlo})
assert config.data.batch_size == 16  # its own config is left as it was
print(json.dumps(told))
"""

_COMPILE_CLIPS = """
from configs import basicvsr, edvr
from sr_jax.training.aot import compile_for

def reduced(recipe, num_frames, **model):
  config = recipe.get_config("smoke")
  with config.unlocked():
    config.model.update(remat=True, dtype="bfloat16", **model)
  config.data.num_frames = num_frames
  found = compile_for(config, "v5e:2x2", each=2)
  return {
    "collectives": sorted(found.cost.collectives),
    "flops": found.cost.flops,
    "lines": len(found.hlo.splitlines()),
  }

told = [reduced(basicvsr, t, spynet_widths=(4, 4, 4, 4)) for t in (3, 8)]
print(json.dumps([*told, reduced(edvr, 5)]))
"""


def _told_by(script):
  """What a script prints at its end, in a process without our flags."""
  names = ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD")
  begin = (
    "import json, sys\nfrom absl import flags\nflags.FLAGS.mark_as_parsed()\n"
    # In half the time; what is exchanged is decided before.
    "import jax\njax.config.update('jax_optimization_level', 'O1')\n"
    f"sys.path.insert(0, {str(_ROOT)!r})\n"
  )
  out = subprocess.run(
    [sys.executable, "-c", begin + script],
    capture_output=True,
    text=True,
    check=False,
    env={k: v for k, v in os.environ.items() if k not in names}
    | {"JAX_PLATFORMS": "cpu"},
  )
  assert out.returncode == 0, out.stderr[-4000:]
  return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.slow
@_needs_libtpu
def test_esrgan_compiles_for_four_chips():
  """Stage 2, reduced: RRDBNet against the U-Net, and VGG19 up to conv2_2."""
  plain, refused = _told_by(_COMPILE)

  assert plain["fits"]
  assert plain["flops"] > 0
  assert (plain["chips"], plain["batch_size"]) == (4, 8)
  # Data parallel: gradients and means are summed, no parameter moves.
  assert plain["collectives"] == ["all-reduce"]
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

  told = "--aot v5e:3x5x7: the TPU compiler does not know that shape"
  assert told in refused["error"]


@pytest.mark.slow
@_needs_libtpu
def test_networks_of_clips_compile_for_four_chips():
  """Reduced: a longer clip is no longer program, and no frames are exchanged.

  Chips share out a batch; pairs of frames, chunks of frames and their flow must
  be laid out so that each stays where its clip is.
  """
  short, long, edvr = _told_by(_COMPILE_CLIPS)
  assert short["lines"] == pytest.approx(long["lines"], rel=0.2)
  # A loop's work is that of all its turns; the first frame has no flow.
  assert 2.4 < long["flops"] / short["flops"] < 3.5
  for found in (short, long, edvr):
    assert found["collectives"] == ["all-reduce"]


_MESHES = """
from sr_jax import sharding
from configs import quickstart
from sr_jax.training import aot
told = []
for topology in ("v4:2x2x1", "v5e:2x2", "v5e:16x16", "v5p:4x4x4", "v6e:16x16"):
  devices = aot._devices(topology)
  for axes in ({}, {"space": 2}, {"space": 4}, {"fsdp": 4}, {"fsdp": 2}):
    mesh = sharding.make_mesh(**axes, devices=devices)
    sharding.check_batch(mesh, (4 * len(devices), 64, 64, 3))
    told.append([topology, len(devices), mesh.size])
print(json.dumps(told))
"""


@_needs_libtpu
def test_real_topologies_have_meshes():
  """With rows of an image, and parts of a state, on the chips of a host."""
  told = _told_by(_MESHES)
  assert {(name, chips) for name, chips, _ in told} == {
    ("v4:2x2x1", 4),
    ("v5e:2x2", 4),
    ("v5e:16x16", 256),
    ("v5p:4x4x4", 64),
    ("v6e:16x16", 256),
  }
  assert all(chips == size for _, chips, size in told)


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
    cost=Cost(2.5e12, {"all-reduce": Exchange(3, 4_200_000)}, 0),
    hlo="",
  )
  assert not found.fits
  assert str(found) == (
    "v5e:4x4, 16 chips, batch 24 (1.5 a chip): compiled in 61 s; a chip holds "
    "9.00 GB and needs 7.50 GB of temporaries, together 16.50 of its 16 GB: "
    "too much by 0.50 GB; 2.5 TFLOP a step and chip; exchanges: 3 all-reduce "
    "of 4.2 MB"
  )


@pytest.mark.parametrize("shape", ["0x2", "2x0", "", "2", "2x2x2x2", "2x-2"])
def test_a_shape_that_is_none_is_told(shape):
  """libtpu ends the process at a side of 0."""
  with pytest.raises(ValueError, match=r"is not one of .* with a shape"):
    aot.count_chips(f"v5e:{shape}")


def test_a_compiler_that_is_not_installed_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"not installed; pip .*sr_jax\[aot\]"):
    aot.count_chips("v5e:2x2")


@pytest.mark.parametrize(
  ("peak", "largest", "most"),
  [
    (lambda n: 1e9 + 0.37e9 * n, 40, 4),  # as foreseen, from two
    (lambda n: 1e9 + 0.37e9 * n + 0.01e9 * n * n, 24, 7),
    (lambda n: 17e9 + n, 0, 5),
    # So little that much more than is tried would fit: no leap to it.
    (lambda n: 1e4 + 40.0 * n, aot.MOST, 5),
    (lambda n: 1e4, aot.MOST, 5),
  ],
)
def test_the_largest_batch_is_found(peak, largest, most, monkeypatch):
  tried = []

  def compile_for(config, topology, *, each):
    tried.append(each)
    if peak(each) > 40e9:
      raise aot.DoesNotFitError("no room")
    return aot.Compiled(
      topology=topology,
      chips=4,
      batch_size=4 * each,
      seconds=1.0,
      arguments=0,
      temporaries=int(peak(each)),
      cost=Cost(0.0, {}, 0),
      hlo="",
    )

  monkeypatch.setattr(aot, "compile_for", compile_for)
  monkeypatch.setattr(aot, "_devices", lambda topology: [None] * 4)
  told = []
  config = ConfigDict(
    {"data": {"batch_size": 32}, "accumulate": 1, "mesh": {"space": 1}}
  )
  found = aot.largest_batch(config, "v5e:2x2", on_compiled=told.append)
  assert largest - max(1, largest // 16) <= found <= largest
  assert len(tried) <= most
  assert len(set(tried)) == len(tried)
  assert told
  # Chips that share out an image's rows have one together.
  assert tried[0] == 8
  tried.clear()
  config.mesh.space = 4
  aot.largest_batch(config, "v5e:2x2", on_compiled=told.append)
  assert tried[0] == 32
  # In parts of a batch, the more of them: a step splits it into as many.
  tried.clear()
  config.accumulate = 3
  found = aot.largest_batch(config, "v5e:2x2", on_compiled=told.append)
  assert all(size % 3 == 0 for size in (found, *tried))
  assert found >= min(largest, aot.MOST) * 0.8 - 3


def test_a_batch_for_chips_that_share_rows(monkeypatch):
  """As many entries for every four of eight chips."""

  def refuse(mesh, shape, *, accumulate):
    raise ValueError(f"a batch of {shape[0]}")

  class Chip:
    process_index = 0

    def __init__(self, number):
      self.id = number

  chips = [Chip(i) for i in range(8)]
  monkeypatch.setattr(aot, "_devices", lambda topology: chips)
  monkeypatch.setattr(aot.sharding, "check_batch", refuse)
  config = quickstart.get_config()
  for space, size in ((1, 24), (4, 6)):
    config.mesh.space = space
    with pytest.raises(ValueError, match=f"a batch of {size}$"):
      aot.compile_for(config, "v5e:2x4", each=3)


def test_a_program_that_jaxlib_cannot_read(tmp_path):
  """libtpu's own text, of the largest program, after its passes."""

  class Compiled:
    def as_text(self):
      raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

  for name, text in (
    ("module_0000.jit_step.after_optimizations.txt", "HloModule jit_step"),
    ("module_0001.jit_iota.after_optimizations.txt", "HloModule"),
    ("module_0000.jit_step.before_optimizations.txt", "HloModule" * 9),
  ):
    (tmp_path / name).write_text(text)
  assert aot._text(Compiled(), str(tmp_path)) == "HloModule jit_step"
