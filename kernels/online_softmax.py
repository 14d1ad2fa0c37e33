"""The softmax of attention, block of keys by block of keys: what every form of the kernel has in common."""

import math

from .language import jit, tl

LOG2_E = math.log2(math.e)


@jit
def absorb(scores, value, largest, total, mixed, scale_log2):
    """Return largest score, sum and mixed values after a block's ``scores`` and ``value`` (FlashAttention).

    ``log2(e) x scale`` is folded into one multiply-add before exp2.
    """
    following = tl.maximum(largest, tl.max(scores, 1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - following[:, None])
    fade = tl.exp2(largest - following)
    total = total * fade + tl.sum(weights, 1)
    return following, total, tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])
