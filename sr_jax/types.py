"""The few aliases that every room shares."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

#: What both NumPy and JAX functions take: the result is of the same kind.
AnyArray: TypeAlias = np.ndarray | jax.Array

#: One training batch: `hr` uint8 `[b, h, w, c]`, and `lr` where a set is
#: paired. RGB, NHWC. float32 in [0, 1] exists only on the device.
Batch: TypeAlias = dict[str, AnyArray]

#: linen variables: `{"params": ..., "batch_stats": ...}`.
Variables: TypeAlias = Mapping[str, Any]

#: A ConfigDict; its fields are made at run time, so no checker knows them.
Config: TypeAlias = Any
