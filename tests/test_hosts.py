"""Processes of a run: how they are joined, and what is refused."""

import dataclasses
import json
import math
import re
import time

import jax
import pytest

from sr_jax import hosts
from sr_jax.evaluation import shares
from sr_jax.evaluation.results import BenchmarkResult, ImageScore


@pytest.fixture
def cluster(monkeypatch):
  """No variable of any launcher; and what JAX is asked for instead of it."""
  for name in (
    "SLURM_NTASKS",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_MCA_orte_hnp_uri",
    "KUBERNETES_SERVICE_HOST",
    "JAX_COORDINATOR_ADDRESS",
  ):
    monkeypatch.delenv(name, raising=False)
  asked = []
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda *a, **k: asked.append((a, k))
  )
  return asked


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("a:1", None, None), "--num_processes and --process_id not given"),
    ((None, 2, None), "--coordinator and --process_id not given"),
    ((None, 1, 0), "--coordinator not given"),
    ((None, None, 0), "--coordinator and --num_processes not given"),
    (("a:1", 2, None), "go together; --process_id not given"),
    ((None, 0, None), "--num_processes 0 must be at least 1"),
    (("a:1", 2, 2), r"--process_id 2 is not in \[0, --num_processes 2\)"),
    (("a:1", 2, -1), "--process_id -1 is not in"),
    (("a", 2, 0), "--coordinator 'a' is not HOST:PORT"),
    (("a:b", 2, 0), "--coordinator 'a:b' is not HOST:PORT"),
    ((":80", 2, 0), "--coordinator ':80' is not HOST:PORT"),
    (("a:65536", 2, 0), "is not HOST:PORT"),
  ],
)
def test_what_makes_no_sense_is_refused(cluster, given, message):
  with pytest.raises(ValueError, match=message):
    hosts.connect(*given)
  assert not cluster


def test_flags_are_handed_on_and_the_cluster_is_not_asked(cluster, capsys):
  hosts.connect("[::1]:80", 2, 1, timeout=7)
  ((arguments, options),) = cluster
  assert arguments == ("[::1]:80", 2, 1)
  assert options["cluster_detection_method"] == "deactivate"
  assert options["initialization_timeout"] == 7
  assert "process 1 of 2 waits" in capsys.readouterr().err
  hosts.connect(None, 1)
  assert len(cluster) == 1


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"])
def test_a_launcher_of_one_process_is_none(cluster, monkeypatch, name):
  monkeypatch.setenv(name, "1")
  hosts.connect()
  assert not cluster
  monkeypatch.setenv(name, "2")
  hosts.connect()
  assert len(cluster) == 1


def _detect(monkeypatch):
  """JAX's own detection, though JAX is in use already."""
  from jax._src import distributed

  state = distributed.State()
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda **options: state.initialize(**options)
  )


def test_a_laptop_waits_for_nothing(cluster, monkeypatch):
  """This is also the test that JAX still says what we look for."""
  del cluster
  _detect(monkeypatch)

  def refused(*args, **kwargs):
    raise AssertionError("a network was asked for")

  monkeypatch.setattr("socket.socket", refused)
  monkeypatch.setattr("socket.getaddrinfo", refused)
  monkeypatch.setattr("socket.gethostbyname", refused)
  begin = time.monotonic()
  hosts.connect()
  assert time.monotonic() - begin < 1


def test_a_cluster_that_jax_cannot_read_is_told(cluster, monkeypatch):
  del cluster
  _detect(monkeypatch)
  monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;usock")
  with pytest.raises(ValueError, match=r"parse .*; --num_processes=1 runs"):
    hosts.connect()


def test_processes_that_jax_does_not_find_do_not_run_alone(
  cluster, monkeypatch
):
  """Open MPI 5's, which have no OMPI_MCA_orte_hnp_uri."""
  del cluster
  _detect(monkeypatch)
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
  with pytest.raises(ValueError, match=r"started 4 processes, .* add --coord"):
    hosts.connect()


def test_slurm_is_found(cluster, monkeypatch):
  """Up to where JAX would begin to wait for the other nodes."""
  del cluster
  from jax._src import distributed

  _detect(monkeypatch)
  found = {}

  def client(address, process_id, **options):
    found.update(address=address, process_id=process_id)
    raise ConnectionError("enough")

  monkeypatch.setattr(
    distributed._jax, "get_distributed_runtime_client", client
  )
  # One GPU a process; this process has no other use of it.
  monkeypatch.setattr(distributed.config, "update", lambda *_: None)
  for name, value in {
    "JOB_ID": "4096",
    "STEP_NODELIST": "node[007-009]",
    "NTASKS": "3",
    "PROCID": "2",
    "LOCALID": "0",
  }.items():
    monkeypatch.setenv(f"SLURM_{name}", value)
  with pytest.raises(ValueError, match="enough"):
    hosts.connect()
  assert found == {"address": "node007:61440", "process_id": 2}


def test_one_process_agrees_with_itself():
  value = {"a": [1 / 3, math.inf], "b": None}
  assert hosts.gather(value) == [value]
  assert hosts.from_first([1, "x"]) == [1, "x"]
  assert math.isnan(hosts.from_first(math.nan))
  hosts.check_alike(value | {"c": math.nan})


def test_what_differs_is_told(monkeypatch):
  found = [{"newest checkpoint": 3, "config.name": "x" * 300}]
  found.append({"newest checkpoint": None, "config.name": "x" * 300})
  monkeypatch.setattr(hosts, "gather", lambda values: found)
  with pytest.raises(
    ValueError,
    match=re.escape(
      "2 processes do not have the same newest checkpoint ([3, None]); give"
    ),
  ):
    hosts.check_alike(found[0])
  found[1] |= {"newest checkpoint": 3, "config.name": "y" * 300}
  with pytest.raises(ValueError, match=r"same config\.name; give"):
    hosts.check_alike(found[0])
  found[1] = {"config.name": "x" * 300}
  with pytest.raises(ValueError, match=r"newest checkpoint \(\[3, None\]\)"):
    hosts.check_alike(found[0])


def _result(*psnrs):
  """Of an RGB network, whose figures on Y are better by ten."""
  rgb, luma = (
    BenchmarkResult(
      protocols={},
      seconds=0.0,
      images=tuple(ImageScore(name=f"{x}", psnr=x + more) for x in psnrs),
    )
    for more in (0.0, 10.0)
  )
  return dataclasses.replace(rgb, on_luma=luma)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_scores_of_all_processes_are_those_of_one(count):
  """Five images; seven processes are more than there are."""
  psnrs = [20.1, 21 + 1 / 3, math.inf, 23.0, 24.0]
  parts = [psnrs[i::count] for i in range(count)]
  told = [shares.as_share(_result(*x) if x else None) for x in parts]
  pooled = shares.pooled(_result(*parts[0]), json.loads(json.dumps(told)))
  assert [x.psnr for x in pooled.images] == psnrs
  assert [x.name for x in pooled.images] == [f"{x}" for x in psnrs]
  assert [x.psnr for x in pooled.on_luma.images] == [x + 10 for x in psnrs]
  assert all(math.isnan(x.niqe) for x in pooled.images)


@pytest.mark.parametrize(
  ("error", "code"),
  [(SystemExit(75), 75), (SystemExit("x"), 1), (OSError(), 1)],
)
def test_a_process_of_several_that_fails_does_not_stay(
  monkeypatch, error, code
):
  ends = []
  monkeypatch.setattr(hosts, "_LEAVE", 0)
  monkeypatch.setattr("os._exit", ends.append)
  with pytest.raises(type(error)), hosts.leaving_in_time():
    raise error
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  with pytest.raises(type(error)), hosts.leaving_in_time():
    raise error
  for _ in range(100):
    if ends:
      break
    time.sleep(0.02)
  assert ends == [code]
