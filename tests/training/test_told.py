"""What train.py tells before its first step, and when it is broken off."""

import pytest
from etils import epath

from configs import edvr, quickstart
from sr_jax.training import checks, claim, cli


def test_a_schedule_that_ends_elsewhere_is_told():
  config = quickstart.get_config()
  assert not checks.schedule_notes(config)
  config.steps = 200
  (told,) = checks.schedule_notes(config)
  assert "ends at step 10,000, and the run at 200" in told
  assert '"--config.schedule.periods=(200,)" would end both' in told
  config = edvr.get_config()
  config.steps = 200
  (told,) = checks.schedule_notes(config)
  assert '"--config.schedule.restart_weights=(1.0,)"' in told


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"workdir .*file cannot be made"):
    claim.make_folder(epath.Path(tmp_path / "file" / "weights"))


def test_a_second_interrupt_ends_at_once(monkeypatch, capsys):
  """XLA may still compile in a thread, and would crash an orderly end."""

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(cli, "train", interrupted)
  monkeypatch.setattr(cli.os, "_exit", lambda code: print(f"ended with {code}"))
  cli.main(
    quickstart.get_config(), workdir=None, data_dir=None, num_processes=1
  )
  told = capsys.readouterr()
  assert "stopped; the same command goes on" in told.err
  assert told.out == "ended with 130\n"
