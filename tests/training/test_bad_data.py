"""Runs on images that cannot be read."""

import json
import pathlib

import pytest
from etils import epath
from hypothesis import given

from sr_jax import training
from sr_jax.training import checks
from tests import damage
from tests.data import test_bad
from tests.training import runs


def _counts(workdir):
  found = [line.get("bad_records") for line in runs.lines(workdir)]
  return [count for count in found if count is not None]


def test_what_is_bad_is_skipped_counted_and_named(config, tmp_path, capsys):
  folder = pathlib.Path(config.data.train)
  runs.pictures(folder, count=6)
  config.eval.benchmarks = ""
  config.steps, config.log_every = 4, 2
  test_bad._cut_short(folder / "0.png")
  config.data.max_bad = 0
  with pytest.raises(ValueError, match=r"0\.png .*cannot be decoded"):
    training.train(config, tmp_path / "none")
  assert not (tmp_path / "none").exists()

  config.data.max_bad = 2
  training.train(config, tmp_path / "one")
  assert _counts(tmp_path / "one") == [1, 1]
  assert "warning: skipped, " in (told := capsys.readouterr().err)
  assert told.count("0.png") == 1
  test_bad._damage_record(test_bad._build(tmp_path), 2)
  training.train(config, tmp_path / "two")
  assert _counts(tmp_path / "two")[-1] == 2
  assert "3.png" in capsys.readouterr().err

  config.data.max_bad = 1
  with pytest.raises(ValueError, match=r"record 2 of .*3\.png"):
    training.train(config, tmp_path / "past")


@pytest.mark.parametrize(
  "examples", [100, pytest.param(2_100, marks=pytest.mark.slow)]
)
def test_a_damaged_config_is_named(config, tmp_path, examples):
  stored = tmp_path / "config.json"
  stored.write_text(json.dumps(config.to_dict(), default=list))
  whole = stored.read_bytes()

  @damage.seeded(examples)
  @given(damage.damaged([whole]))
  def each(data):
    stored.write_bytes(data)
    run = lambda: checks.check_unchanged(config, epath.Path(stored))
    damage.read(run, len(data))

  each()
  long = json.dumps({"a" * 100_000: {str(i): i for i in range(2_000)}})
  for text in ("[]", "3", '"text"', "[" * 100_000, '{"a":' * 100_000, long):
    stored.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
      checks.check_unchanged(config, epath.Path(stored))
