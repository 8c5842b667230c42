"""train.py as a user starts it: one line for a mistake, and no traceback."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def _train(*arguments, cwd, **env):
  return subprocess.run(
    [sys.executable, str(_ROOT / "train.py"), *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=cwd,
    # With libtpu installed, a look for TPUs would say that there are none.
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(_ROOT),
      **env,
    },
  )


_QUICKSTART = f"--config={_ROOT}/configs/quickstart.py"
_ESRGAN = f"--config={_ROOT}/configs/esrgan.py"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "give a recipe"),
    (["--config=configs/nope.py"], "there is no recipe 'configs/nope.py'"),
    ([f"{_QUICKSTART}:smoek"], "did you mean 'smoke'"),
    ([_QUICKSTART, "--config.stepz=3"], "did you mean 'steps'"),
    ([_QUICKSTART, "--config.data.foo=3"], "no field 'foo'"),
    (
      [_QUICKSTART, "--config.steps=abc"],
      "config.steps 'abc' is no whole number",
    ),
    ([_QUICKSTART, "--config.optimizer=muon"], "--config.optimizer.name=muon"),
    ([_QUICKSTART, "--config.eval=set5"], "set one of them (configs/common.py"),
    ([_QUICKSTART, "--config.model.name=fsrnn"], "did you mean 'fsrcnn'"),
    ([_QUICKSTART, "--config.data.train=/nowhere"], "/nowhere"),
    ([_QUICKSTART, "surplus"], "'surplus' belongs to no flag"),
    ([_QUICKSTART, "--aot=v9:2x2"], "--aot 'v9:2x2' is not one of"),
    ([_QUICKSTART, "--aot="], "--aot '' is not one of"),
    ([_QUICKSTART, "--num_processes=2"], "--process_id not given"),
    ([_QUICKSTART, "--aot=v5e:2x2", "--process_id=0"], "leave --coordinator"),
    ([_ESRGAN], "python -m sr_jax.weights vgg19"),
  ],
  ids=lambda x: x if isinstance(x, str) else None,
)
def test_a_mistake_is_one_message(arguments, message, tmp_path):
  env = {"SR_JAX_CACHE": str(tmp_path / "cache"), "SR_JAX_DATA": str(tmp_path)}
  run = _train(*arguments, cwd=tmp_path, **env)
  assert run.returncode == 2
  assert message in run.stderr
  assert "Traceback" not in run.stderr
  assert len(run.stderr.strip().splitlines()) <= 2, run.stderr


@pytest.mark.slow
def test_the_readmes_command_from_any_folder(tmp_path):
  """The default workdir is relative; the run leaves it whole and resumes."""
  env = {"SR_JAX_CACHE": str(tmp_path / "cache")}
  first = _train(f"{_QUICKSTART}:smoke", cwd=tmp_path, **env)
  assert first.returncode == 0, first.stderr
  assert "bicubic by" in first.stderr.splitlines()[-1]
  assert (tmp_path / "runs" / "quickstart_smoke" / "checkpoints" / "4").is_dir()
  again = _train(
    f"{_QUICKSTART}:smoke", "--config.steps=6", cwd=tmp_path, **env
  )
  assert "goes on from step 4 of 6" in again.stderr
