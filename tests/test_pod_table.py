"""docs/aot.md is what its command makes, and says what was promised of it."""

import json
import pathlib

import pytest

from benchmarks import aot_table

_DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def table():
  return json.loads((_DOCS / "aot.json").read_text())


def test_the_page_is_that_of_the_table(table):
  assert (_DOCS / "aot.md").read_text() == aot_table.render(table)


def test_every_recipe_is_compiled_for_every_topology(table):
  assert table.keys() == {
    f"{name} @ {topology}"
    for name in aot_table.RECIPES
    for topology in aot_table.TOPOLOGIES
  }
  for name in aot_table.RECIPES:  # the step is the same on all
    flops = {table[f"{name} @ {x}"]["flops"] for x in aot_table.TOPOLOGIES}
    assert len(flops) == 1, name


def test_published_batches_fit_four_chips(table):
  for name in ("ESRGAN", "EDVR-L", "BasicVSR++"):
    row = table[f"{name} @ v5e:2x2"]
    assert row["held"] + row["temporaries"] <= row["memory"] == 16e9


def test_temporaries_do_not_grow_with_the_pod(table):
  """A chip's, at as much a chip: by 4 % where they are more than a few MB."""
  for name in aot_table.RECIPES:
    few, many = (table[f"{name} @ v5e:{x}"] for x in ("2x2", "16x16"))
    assert many["temporaries"] <= 1.05 * few["temporaries"] + 0.1e6, name


def test_what_feeds_a_host():
  """By hand: 4 chips, 4 a chip, of 1 TFLOP, at 40 % of 197 TFLOP/s."""
  row = {"chips": 4, "each": 4, "flops": 1e12}
  told = aot_table._feeding("ESRGAN", "v5e:2x2", row)
  # 1,261 a second, of which each takes 0.95 and 0.12 ms.
  assert told == "| ESRGAN | v5e:2x2 | 1,261 | 1.3 | 1 |"
  # 100 times faster: 135 cores, and there are 112; two crops an image take 75.
  told = aot_table._feeding("ESRGAN", "v5e:2x2", row | {"flops": 1e10})
  assert told == "| ESRGAN | v5e:2x2 | 126,080 | 134.9 | 2 |"
  # 30 frames of 1280x720: 130 ms to read, twice 5 to cut.
  row = {"chips": 4, "each": 2, "flops": 1e13}
  told = aot_table._feeding("BasicVSR++", "v5e:2x2", row)
  assert told == "| BasicVSR++ | v5e:2x2 | 63 | 8.8 | 1 |"
