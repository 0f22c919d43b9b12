"""Attention tile by tile in plain torch: O(N) memory, forward and backward, any device, any floating dtype.

For a few heads at a time, each q tile visits its kv tiles with running softmax statistics (Milakov and Gimelshein 2018;
FlashAttention: Dao et al. 2022). The backward recomputes the weights of each tile from the log-sum-exp. Scores and sums are
float32, or float64 for float64 inputs.

    tile         where tiles lie, and how they are read and written
    bias         the bias of a tile and the sums of its gradient, for each form
    scores       product, bias and mask of a tile; dropout
    forward_pass, backward_pass   (not named after the functions: a package cannot hold both)
"""

from torch import Tensor

from falloff.ops.blockwise.backward_pass import backward
from falloff.ops.blockwise.forward_pass import forward
from falloff.ops.call import Call

__all__ = ["CHECKS_INPUTS", "backward", "forward", "lowered_size", "refusal", "unavailable"]

CHECKS_INPUTS = False


def unavailable() -> str | None:
    """Why it cannot run on this machine: it runs on all."""
    return None


def refusal(query: Tensor, key: Tensor, call: Call) -> str | None:
    """Why this implementation cannot serve a call: it serves all."""
    return None


def lowered_size(query: Tensor, key: Tensor, call: Call) -> int:
    """How many int32 numbers the lowered call takes: nothing is lowered."""
    return 0
