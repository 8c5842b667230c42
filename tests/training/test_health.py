"""What makes a run unwell, against numbers worked out by hand."""

import pytest

from sr_jax.training.health import Health, summary


def _period(*gaps, skipped=()):
  """Steps of these gaps; those at the places of `skipped` were not finite."""
  return [
    {"skipped": float(i in skipped), "d_gap": gap} for i, gap in enumerate(gaps)
  ]


def _watch(**kwargs):
  return Health(**{"max_skipped": 4, "max_gap": 5.0, **kwargs})


def test_skips_on_end_are_counted_over_periods():
  health = _watch()
  assert not health.observe(3, _period(0, 0, 0, skipped={1, 2})).failure
  # One more, and one that is finite: it begins anew.
  assert not health.observe(6, _period(0, 0, 0, skipped={0, 2})).failure
  assert not health.observe(9, _period(0, 0, skipped={0, 1})).failure
  verdict = health.observe(12, _period(0, 0, 0, skipped={0, 1, 2}))
  assert "4 steps on end, steps 7 to 10" in verdict.failure
  assert not verdict.warning


def test_a_rollback_counts_skips_anew():
  health = _watch(max_skipped=2, action="rollback")
  assert health.observe(2, _period(0, 0, skipped={0, 1})).failure
  assert health.may_roll_back()
  assert not health.observe(3, _period(0, skipped={0})).failure
  assert health.observe(4, _period(0, skipped={0})).failure


def test_a_plain_run_has_no_gap():
  health = Health(max_skipped=2, max_gap=1e-9, patience=1, action="stop")
  for step in (2, 4):
    verdict = health.observe(step, [{"skipped": 0.0}] * 2)
    assert not verdict.failure
    assert not verdict.warning


def test_saturation_is_of_a_periods_mean():
  health = _watch(action="stop", patience=2)
  # At the limit is not past it; a skipped step does not count.
  assert not health.observe(2, _period(4.0, 6.0)).warning
  assert not health.observe(4, _period(4.0, 1e9, skipped={1})).warning
  assert not health.observe(6, _period(-7.0, 8.0)).warning
  told = health.observe(8, _period(4.0, 6.5)).warning
  assert "D(real) - D(fake) is 5.2" in told
  assert "config.health.max_gap 5" in told
  assert "for 1 log period" in told


def test_patience_is_of_periods_on_end():
  health = _watch(action="stop", patience=3)
  gaps = [6.0, 6.0, 1.0, 6.0, 6.0, 6.0, 6.0]
  verdicts = [health.observe(i, _period(gap)) for i, gap in enumerate(gaps)]
  assert [bool(v.warning) for v in verdicts] == [1, 1, 0, 1, 1, 0, 0]
  assert [bool(v.failure) for v in verdicts] == [0, 0, 0, 0, 0, 1, 1]
  assert "for 3 log period" in verdicts[5].failure


def test_a_warning_never_fails():
  health = _watch(action="warn", patience=1)
  for step in range(5):
    verdict = health.observe(step, _period(6.0))
    assert verdict.warning
    assert not verdict.failure
  assert not health.may_roll_back()
  # What is not finite ends even such a run.
  assert health.observe(9, _period(*[0.0] * 4, skipped={0, 1, 2, 3})).failure


def test_a_gap_of_nothing_never_saturates():
  health = _watch(max_gap=0.0, action="stop", patience=1)
  verdict = health.observe(1, _period(1e9))
  assert not verdict.warning
  assert not verdict.failure


def test_rollbacks_are_counted():
  health = _watch(action="rollback", patience=1, max_rollbacks=2)
  for allowed in (True, True, False, False):
    assert health.observe(1, _period(6.0)).failure
    assert health.may_roll_back() == allowed
  assert not _watch(action="stop").may_roll_back()
  assert not _watch(action="rollback", max_rollbacks=0).may_roll_back()


@pytest.mark.parametrize(
  ("action", "kept"), [("rollback", False), ("stop", True), ("warn", True)]
)
def test_what_is_rolled_back_to_was_well(action, kept):
  health = _watch(action=action, patience=9)
  assert health.keeps_checkpoint
  health.observe(1, _period(6.0))
  assert health.keeps_checkpoint == kept
  health.observe(2, _period(1.0))
  assert health.keeps_checkpoint
  health.observe(3, _period(6.0))
  health.may_roll_back()
  assert health.keeps_checkpoint


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"action": "wait"}, r"action 'wait' is not one of \['warn', 'stop'"),
    ({"max_gap": -1.0}, r"config\.health\.max_gap -1\.0 must be at least 0"),
    ({"patience": 0}, r"config\.health\.patience 0 must be at least 1"),
    (
      {"max_rollbacks": -1},
      r"config\.health\.max_rollbacks -1 must be at least 0",
    ),
  ],
)
def test_what_is_out_of_range_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _watch(**fields)


def _step(pixel, adversarial, *, moved=1.0, skipped=0.0, d_loss=1.0):
  return {
    "loss": pixel + adversarial,
    "loss/pixel": pixel,
    "loss/adversarial": adversarial,
    "grad_norm": 2.0 * pixel,
    "d_loss": d_loss,
    "moved": moved,
    "skipped": skipped,
  }


def test_shares_of_the_loss():
  found = summary([_step(1.0, -0.25), _step(3.0, -0.75)])
  assert found == {
    "loss": 1.5,
    "loss/pixel": 2.0,
    "loss/adversarial": -0.5,
    "grad_norm": 4.0,
    "d_loss": 1.0,
    # By size: a negative term has a share as well.
    "share/pixel": 0.8,
    "share/adversarial": 0.2,
    "skipped": 0.0,
  }


def test_held_steps_are_not_the_generators():
  held = _step(0.0, 0.0, moved=0.0, d_loss=4.0)
  found = summary([held, _step(1.0, 0.5, d_loss=2.0), held])
  assert found["loss"] == 1.5
  assert found["grad_norm"] == 2.0
  assert found["share/pixel"] == pytest.approx(2 / 3)
  assert found["d_loss"] == pytest.approx(10 / 3)
  # Where it moved in none, there is nothing to tell of it.
  assert summary([held, held]) == {"d_loss": 4.0, "skipped": 0.0}


def test_skipped_steps_count_only_where_all_were():
  nan = float("nan")
  bad = _step(nan, nan, skipped=1.0, d_loss=nan)
  found = summary([bad, _step(1.0, 0.5), bad])
  assert found["loss"] == 1.5
  assert found["d_loss"] == 1.0
  assert found["skipped"] == 2.0
  found = summary([bad, bad])
  assert found["loss"] != found["loss"]
  assert "share/pixel" not in found
  assert found["skipped"] == 2.0


def test_one_term_has_no_share():
  found = summary([{"loss": 2.0, "grad_norm": 1.0, "skipped": 0.0}])
  assert found == {"loss": 2.0, "grad_norm": 1.0, "skipped": 0.0}
