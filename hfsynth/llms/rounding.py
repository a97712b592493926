"""Attention's products, in which a CPU rounds every query row alike.

Kernels there take 32 rows at once and multiply the last few in another order: in bfloat16 a single one, in float32 up
to 5 where heads are no wider than 128 and 10 where they are, up to 8 where keys and values differ in width. How many
are left over depends on how many tokens of a row are read together, so they are never left as few.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Return `F.scaled_dot_product_attention`; of the mask's rows there are as many as of the query's, or one."""
    rows, whole = query.shape[-2], filled_up(query, keys, values)
    if (missing := whole.shape[-2] - rows) and mask.shape[-2] > 1:
        mask = F.pad(mask, (0, 0, 0, missing))
    return F.scaled_dot_product_attention(whole, keys, values, mask, scale=scale)[..., :rows, :]


def filled_up(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return a query with rows of zeros at its end, to as many as are read in one order."""
    missing = -query.shape[-2] % _multiple(keys, values)
    return F.pad(query, (0, 0, 0, missing)) if missing else query


def _multiple(keys: Tensor, values: Tensor) -> int:
    """Return of what the number of rows is made a multiple: more than the few, and a divisor of 32."""
    width = keys.shape[-1]
    if keys.device.type != "cpu":
        return 1
    if width != values.shape[-1]:
        return 16
    if keys.dtype is torch.bfloat16:
        return 2
    return 8 if width <= 128 else 16
