"""A stretch of windows in the model: what sees more than one token (bias, positions, attention), for context parallel."""

from dataclasses import dataclass

from torch import Tensor, distributed, nn

from falloff.distributed import attention, shard, shard_form, unshard
from falloff.forms import Form
from falloff.schemes import SCHEMES
from falloff.schemes.content import ContentScheme


@dataclass(frozen=True)
class Stretch:
    """This process's stretch of windows.

    Args:
        group: the processes that share them.
        length: of the whole windows.
    """

    group: distributed.ProcessGroup
    length: int

    def of(self, whole: Tensor, dim: int) -> Tensor:
        """This process's part of a tensor of all positions."""
        return shard(whole, dim, self.group)

    def of_form(self, whole: Form) -> Form:
        """This process's part of the form of whole windows."""
        return shard_form(whole, self.group)

    def content_form(self, scheme: ContentScheme, states: list[Tensor], here: int) -> Form:
        """This process's part of the form of a scheme that depends on content.

        Args:
            states: what the scheme is called with, of this process's tokens.
            here: their number.
        """
        if "gates" in scheme.content or type(scheme) not in SCHEMES.values():
            # Gates add up over all tokens, and so may the states of a scheme of the user's own: they are gathered.
            dims = [1 if name == "hidden" else 2 for name in scheme.content]
            whole = (unshard(part, dim, self.group) for part, dim in zip(states, dims, strict=True))
            return self.of_form(scheme(*whole))
        # These queries as the last of as many keys that the form has all offsets of the whole windows
        sizes = {"num_queries": here, "num_keys": 2 * self.length - here, "query_start": self.length - here}
        return scheme(*states, **{name: sizes[name] for name in scheme.sizes})

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, bias: nn.Module | Form | None, scale: float | None
    ) -> Tensor:
        """Causal attention of this process's queries over the whole windows."""
        return attention(query, key, value, bias, group=self.group, causal=True, scale=scale)
