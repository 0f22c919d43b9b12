"""T5 and those that share its attention: mT5, UMT5, SwitchTransformers, Pop2Piano; ByT5, Flan-T5 and Chronos are T5.

Transformers hands the bias from the first layer to the others as a tensor (1, H, N, M). Here it is (1, H, 1, K): its values
by offset, made by the module's own method for one query, so that buckets are those the model was trained with. Its floats
floor some boundaries other than `falloff.T5Bias`, which is exact.
"""

from typing import Any

import torch
from torch import Tensor

from falloff.forms import Strip
from falloff.hf.families.fused import Fused
from falloff.hf.masks import Seen


class FusedT5(Fused):
    """T5Attention with its bias by offset."""

    relative_attention_max_distance: int
    relative_attention_num_buckets: int
    is_decoder: bool
    n_heads: int

    @property
    def has_relative_attention_bias(self) -> bool:
        """Where this is False, Transformers makes a tensor of zeros (1, H, N, M): so that `compute_bias` is asked."""
        return True

    def compute_bias(
        self, query_length: int, key_length: int, device: Any = None, past_seen_tokens: int | Tensor = 0
    ) -> Tensor:
        """The bias by rising offset: up to the reach; or, for a single query, of its keys from the last back."""
        self.must_be_ours()
        if not self.__dict__["has_relative_attention_bias"]:
            return torch.zeros(1, self.n_heads, 1, 0, device=device)
        of_one_query: Any = super().compute_bias  # type: ignore[misc]
        if query_length == 1:
            return torch.flip(of_one_query(1, key_length, device=device, past_seen_tokens=past_seen_tokens), (-1,))
        reach = self._reach()
        keys = reach + 1 if self.is_decoder else 2 * reach + 1
        return torch.flip(of_one_query(1, keys, device=device, past_seen_tokens=reach), (-1,))

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, seen: Seen) -> Strip | None:
        """The form of what `compute_bias` made."""
        if position_bias is None or position_bias.shape[-1] == 0:
            return None
        start = 0 if self.is_decoder or query.shape[2] == 1 else -self._reach()
        return Strip(position_bias[0, :, 0], start)

    def _reach(self) -> int:
        """Where the last bucket has begun: there may be more exact buckets than the largest distance says."""
        exact = self.relative_attention_num_buckets // (2 if self.is_decoder else 4)
        return max(self.relative_attention_max_distance, exact)
