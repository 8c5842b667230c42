"""eval.py over several processes, and over the rows of an image."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import hosts, models, sharding, weights
from sr_jax.evaluation import cli, run
from tests.training import runs


def _eval(*flags, devices=1, processes=1, cwd):
  """Starts eval.py as often as asked; exit codes, and what each printed."""
  port = runs.free_port()
  started = []
  for i in range(processes):
    command = [sys.executable, str(runs.ROOT / "eval.py"), *flags]
    if processes > 1:
      command += [
        f"--coordinator=localhost:{port}",
        f"--num_processes={processes}",
        f"--process_id={i}",
      ]
    started.append(
      subprocess.Popen(
        command,
        env={
          **os.environ,
          "JAX_PLATFORMS": "cpu",
          "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
          "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
          "PYTHONPATH": str(runs.ROOT),
        },
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  outputs = [process.communicate(timeout=600) for process in started]
  return [x.returncode for x in started], outputs


def _figures(path):
  """Without how long it took."""
  rows = json.loads(path.read_text())
  for row in rows:
    row.pop("seconds", None), row.pop("seconds_per_frame", None)
  return rows


@pytest.fixture
def workplace(tmp_path):
  """Three images of two sizes, two clips, and a network."""
  images = runs.pictures(tmp_path / "images", count=3)
  for clip in ("a", "b"):
    runs.pictures(tmp_path / "clips" / clip, count=3)
  runs.pictures(tmp_path / "other", count=1, side=54)
  (tmp_path / "other" / "0.png").rename(images / "3.png")
  model = models.build("fsrcnn", scale=2, num_features=4, shrink_features=2)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  weights.save(tmp_path / "net.safetensors", model, variables)
  return tmp_path


@pytest.mark.slow
def test_several_processes_print_what_one_does(workplace):
  """Three, more than there are clips."""
  processes = 3
  flags = ("--weights=bicubic,net.safetensors", "--scales=2", "--details")
  for which in ("images", "clips"):
    flags_here = (*flags, f"--benchmarks={which}")
    if which == "clips":
      flags_here = ("--weights=bicubic", *flags_here[1:])
    codes, [(one, _)] = _eval(*flags_here, "--json=1.json", cwd=workplace)
    assert codes == [0]
    codes, outputs = _eval(
      *flags_here, "--json=n.json", processes=processes, cwd=workplace
    )
    assert codes == [0] * processes, outputs
    told, *silent = [out for out, _ in outputs]
    lines = "".join(silent).splitlines()
    assert all(line.startswith("[Gloo]") for line in lines)
    found = _figures(workplace / "n.json")
    assert found == _figures(workplace / "1.json")
    assert len(found[0]["images"]) == {"images": 4, "clips": 2}[which]
    for image in found[0]["images"]:
      assert image["name"] in told
    assert one.splitlines()[-1] == told.splitlines()[-1]


@pytest.mark.slow
def test_what_one_process_cannot_read_is_told_and_ends_all(workplace):
  """The second one has it in its share."""
  (workplace / "images" / "1.png").write_bytes(b"no image")
  codes, outputs = _eval(
    "--weights=bicubic",
    "--scales=2",
    "--benchmarks=images",
    processes=2,
    cwd=workplace,
  )
  assert codes == [2, 2]
  assert "1.png (8 bytes) cannot be decoded" in outputs[0][1]
  codes, outputs = _eval(
    "--weights=bicubic",
    "--benchmarks=images",
    "--report=x.html",
    processes=2,
    cwd=workplace,
  )
  assert codes == [2, 2]
  assert "pictures, which lie on all hosts" in outputs[0][1]
  assert not (workplace / "x.html").exists()


def test_together_is_each_ones_own(monkeypatch):
  assert hosts.together(lambda: 3) == 3
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(hosts, "gather", lambda problem: [problem, "not there"])
  with pytest.raises(ValueError, match="not there"):
    hosts.together(lambda: 3)
  monkeypatch.setattr(hosts, "gather", lambda problem: [problem, None])
  assert hosts.together(lambda: 3) == 3

  def fail():
    raise OSError("no disk")

  with pytest.raises(ValueError, match="no disk"):
    hosts.together(fail)


def test_room_is_made_by_all_alike(monkeypatch):
  """By the largest share, which is another process's."""

  def held(size):
    made = object.__new__(run.PreparedBenchmark)
    for name, arrays in (("lr", [np.zeros(size, np.uint8)]), ("hr", [])):
      object.__setattr__(made, name, arrays)
    return made

  monkeypatch.setattr(run, "_MOST_HELD", 100)
  monkeypatch.setattr(hosts, "gather", lambda size: [size, size + 90])
  prepared = {("first",): held(20), ("second",): held(5)}
  run._make_room(prepared)
  assert list(prepared) == [("second",)]


def test_a_signal_ends_an_evaluation_on_a_pod_too(monkeypatch):
  """jax keeps SIGTERM for runs that stop at the end of a step."""
  noted = signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(hosts, "connect", lambda *_: None)
    monkeypatch.setattr(cli, "run", lambda: signal.getsignal(signal.SIGTERM))
    assert cli.main(None, None, None) == signal.SIG_DFL
  finally:
    signal.signal(signal.SIGTERM, noted)


_IN_ROWS = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from sr_jax import models, sharding
from sr_jax.inference import super_resolve
from sr_jax.inference.images import apply

model = models.build("rrdbnet", scale=4, num_features=16, num_blocks=1,
                     growth_features=8)
images = [np.random.default_rng(i).uniform(size=(*s, 3)).astype("float32")
          for i, s in enumerate([(64, 20), (85, 20), (85, 20), (3, 20)])]
variables = jax.jit(model.init)(jax.random.key(0), images[0][None])
whole = super_resolve(model, variables, images)
apart, memory = [], []
for space in (1, 4):
  mesh = sharding.rows_mesh(space)
  found = super_resolve(model, variables, images, mesh=mesh)
  apart.append(max(float(abs(a - b).max()) for a, b in zip(whole, found)))
  lr = np.zeros((1, 255, 255, 3), "float32")
  program = apply.lower(model, variables, lr, mesh).compile()
  memory.append(program.memory_analysis().temp_size_in_bytes)
print(json.dumps([apart, memory]))
"""


@pytest.mark.slow
def test_rows_on_several_devices_are_the_same_image():
  """8 fake CPU devices; 85 rows and 3, which no number of them divides."""
  out = subprocess.run(
    [sys.executable, "-c", _IN_ROWS],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  assert out.returncode == 0, out.stderr[-3000:]
  apart, memory = json.loads(out.stdout.splitlines()[-1])
  assert apart[0] == 0
  assert max(apart) < 1e-6
  # What does not fall is the restored image, whole on each.
  assert memory[1] < 0.5 * memory[0]


def test_more_devices_than_there_are_are_refused(workplace, capsys):
  for space in (0, 2):
    code = run.run(
      weights=["bicubic"], benchmarks=[str(workplace / "images")], space=space
    )
    assert code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"--space={space} is not between 1 and the 1 devices" in told
  assert sharding.rows_mesh(1) is None


def test_rows_of_clips_are_refused(workplace, capsys, monkeypatch):
  two = jax.sharding.Mesh(
    np.array(2 * jax.devices()[:1]).reshape(1, 1, 2), sharding.AXES
  )
  monkeypatch.setattr(sharding, "rows_mesh", lambda space: two)
  code = run.run(
    weights=["bicubic"], benchmarks=[str(workplace / "clips")], space=2
  )
  assert code == 2
  assert "--space=2 is for images" in capsys.readouterr().err
