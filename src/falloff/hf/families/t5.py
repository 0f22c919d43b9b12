"""T5 and those that share its attention: mT5, UMT5, SwitchTransformers, Pop2Piano; ByT5, Flan-T5 and Chronos are T5.

Of UDOP and Pix2Struct the decoder alone: UDOP's encoder has biases of bounding boxes too, which are no function of the
offset, and that of Pix2Struct has none.

Transformers passes the bias of the first layer to the other layers, as a tensor (1, H, N, M). Here this tensor is
(1, H, 1, K): the values by offset. The module's own method computes it for one query, so that the buckets are those the
model was trained with: it floors float logarithms, and some boundaries differ from those of `falloff.T5Bias`, which is
exact.
"""

from typing import Any

import torch
from torch import Tensor

from falloff.forms import Strip
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts


class FusedT5(Fused):
    """T5Attention with its bias by offset."""

    relative_attention_max_distance: int
    relative_attention_num_buckets: int
    is_decoder: bool
    n_heads: int

    @property
    def has_relative_attention_bias(self) -> bool:
        """Always True, so that `compute_bias` is called: if False, Transformers makes a tensor of zeros (1, H, N, M)."""
        return True

    def compute_bias(
        self, query_length: int, key_length: int, device: Any = None, past_seen_tokens: int | Tensor = 0
    ) -> Tensor:
        """The bias by rising offset, up to the reach; of a single query, that of its keys from the last to the first."""
        self.check_implementation()
        if not self.__dict__["has_relative_attention_bias"]:
            return torch.zeros(1, self.n_heads, 1, 0, device=device)
        of_one_query: Any = super().compute_bias  # type: ignore[misc]
        if query_length == 1:
            return torch.flip(of_one_query(1, key_length, device=device, past_seen_tokens=past_seen_tokens), (-1,))
        reach = self._reach()
        keys = reach + 1 if self.is_decoder else 2 * reach + 1
        return torch.flip(of_one_query(1, keys, device=device, past_seen_tokens=reach), (-1,))

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, mask: MaskParts) -> Strip | None:
        """The values of `compute_bias` as a strip."""
        if position_bias is None or position_bias.shape[-1] == 0:
            return None
        start = 0 if self.is_decoder or query.shape[2] == 1 else -self._reach()
        return Strip(position_bias[0, :, 0], start)

    def _reach(self) -> int:
        """An offset in the last bucket. There may be more exact buckets than relative_attention_max_distance."""
        exact = self.relative_attention_num_buckets // (2 if self.is_decoder else 4)
        return max(self.relative_attention_max_distance, exact)


class FusedUdop(FusedT5):
    """UdopAttention of the decoder."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        return None if module.is_decoder else "two of its three biases depend on bounding boxes, not on the offset"


class FusedPix2Struct(FusedT5):
    """Pix2StructTextAttention."""

    is_decoder = True
