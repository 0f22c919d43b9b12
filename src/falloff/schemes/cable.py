"""Cable: each token is a step away from all keys before it, as long as its content says."""

import torch
from torch import Tensor

from falloff.schemes.forgetting import _Cumulative


class Cable(_Cumulative):
    """A distance that counts each token by its content: minus the sum of softplus(gates[b, h, t]), j < t <= i.

    j is the key's position, i the query's. The model projects the gates (B, H, M) from its hidden states, and passes the
    form. With equal gates it is ALiBi. There are no parameters.

    Args:
        num_heads: H, at least 1.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Veisi, Ahmadi Fard and Mansourian 2025, "Context-aware Biases for Length Extrapolation".

    >>> from falloff import attention
    >>> cable = Cable(2)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> attention(query, key, value, cable(torch.randn(1, 2, 5)), causal=True).shape
    torch.Size([1, 2, 5, 8])
    """

    name = "cable"
    formula = "-sum of softplus(gates[b, h, t]) over j < t <= i"
    paper = "Veisi et al. 2025, Context-aware Biases for Length Extrapolation"
    reading = "A penalty on distance in which every token between key and query counts as much as its content says."

    def _steps(self, gates: Tensor) -> Tensor:
        return -torch.nn.functional.softplus(gates)
