"""What befalls a run while it looks: evaluations that fail, disks that fill."""

import errno
import json
import os
import subprocess
import sys

import jax
import pytest
from orbax.checkpoint._src.path import atomicity

from sr_jax import hosts, training
from sr_jax.training import claim, evaluator
from tests.training import runs


def test_an_evaluation_that_fails_loses_no_step(config, tmp_path, monkeypatch):
  def fail(self, *_):
    raise OSError("there is no frame 7 any more")

  with monkeypatch.context() as patch:
    patch.setattr(evaluator.Evaluator, "evaluate", fail)
    with pytest.raises(OSError, match="frame 7"):
      training.train(config, tmp_path / "run")
  assert [x.name for x in (tmp_path / "run" / "stopped").iterdir()] == ["3"]
  training.train(config, tmp_path / "run")
  training.train(config, tmp_path / "unbroken")
  for step in (3, 6):
    runs.assert_equal(
      *(runs.final_state(tmp_path / name, step) for name in ("run", "unbroken"))
    )
  run, unbroken = (runs.lines(tmp_path / x) for x in ("run", "unbroken"))
  assert [x["step"] for x in run] == [x["step"] for x in unbroken]


def test_a_checkpoint_that_fails_is_told_at_the_next_line(
  config, tmp_path, monkeypatch
):
  """Of the writing thread; not an evaluation and its steps later."""
  config.steps, config.log_every, config.eval_every = 3000, 1, 1500
  written = atomicity.AtomicRenameTemporaryPath

  async def full(self, *_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(written, "finalize", full)
  with pytest.raises(training.CheckpointError, match=r"^disk full: the run.s"):
    training.train(config, tmp_path / "run")
  steps = [x["step"] for x in runs.lines(tmp_path / "run") if "loss" in x]
  assert 1500 <= steps[-1] < 3000


def test_a_workdir_that_is_not_one_for_all_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(hosts, "from_first", lambda value: value)
  monkeypatch.setattr(hosts, "on_all", lambda flag: flag)
  monkeypatch.setattr(hosts, "gather", lambda seen: [seen, True])
  claim.Claim(tmp_path).meet()
  monkeypatch.setattr(hosts, "gather", lambda seen: [seen, False])
  with pytest.raises(ValueError, match=r"another folder for processes \[1\]"):
    claim.Claim(tmp_path).meet()
  assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_that_cannot_be_moved_is_named(
  config, tmp_path, monkeypatch
):
  training.train(config, tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "6" / "state" / "_METADATA").write_text(
    ""
  )
  (tmp_path / "run" / "damaged").write_text("in the way")
  config.steps = 9
  with pytest.raises(
    training.CheckpointError, match=r"checkpoint 6 .* cannot be moved to .*/6;"
  ):
    training.train(config, tmp_path / "run")


_IN_ROWS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
from absl import flags
flags.FLAGS.mark_as_parsed()
from configs import quickstart
from sr_jax import training
from sr_jax.evaluation import benchmark
images, workdir, space = sys.argv[1:]
config = quickstart.get_config()
config.model.num_features = 8
config.data.train = config.eval.benchmarks = images
config.data.patch_size, config.data.batch_size = 32, 4
config.steps = config.log_every = config.eval_every = 1
config.mesh.space = int(space)
evaluate, meshes = benchmark.evaluate, []

def seen(*args, mesh, **options):
  meshes.append(mesh and mesh.shape["space"])
  return evaluate(*args, mesh=mesh, **options)

benchmark.evaluate = seen
print(json.dumps([training.train(config, workdir), meshes]))
"""


@pytest.mark.slow
def test_rows_are_shared_out_in_evaluations_too(images, tmp_path):
  """4 fake CPU devices."""

  def results(space):
    out = subprocess.run(
      [sys.executable, "-c", _IN_ROWS, images, tmp_path / space, space],
      capture_output=True,
      text=True,
      check=False,
      cwd=runs.ROOT,
      env={
        **os.environ,
        **runs.QUICKLY_COMPILED,
        "SR_JAX_CACHE": str(tmp_path / "cache"),
      },
    )
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout.splitlines()[-1])

  (whole, alone), (parts, shared) = results("1"), results("2")
  assert (alone, shared) == ([None], [2])
  assert parts == pytest.approx(whole, rel=1e-4)
