"""The forms: the few tensors that a scheme passes to a kernel.

The bias of query row r (at position query_start + r) and key j, whose offset is n = query_start + r - j:

| form | tensors | bias |
|---|---|---|
| `Strip` | values (H, K), start | values[h, clamp(n - start, 0, K - 1)] |
| `Band` | values (B, H, N, E) | values[b, h, r, n] if 0 <= n < E, else 0 |
| `Warp` | g (K,), a (N,) or (B, N), knots (S-1,), slope and intercept (H, S) | x = g[abs(n)] * a[r], |
| | | slope[h, s] * x + intercept[h, s] in the segment s of x |
| `Factored` | states (B, H, N, R), table (H or 1, K, R), start | states[b, h, r] . table[h, n - start] inside the table; |
| | | for side "key" states[b, h, j], of states (B, H, M, R) |
| `Potential` | row (B, H, N), key (B, H, M) | row[b, h, r] + key[b, h, j] |
| `Sum` | those of a few forms | the sum of theirs |

A form knows nothing of its scheme, and a kernel knows nothing of a bias but its form. `dense` defines each form, in O(N M)
memory: the tests compare the kernels with it.
"""

from collections.abc import Sequence

from torch import Tensor

from falloff.forms.band import Band
from falloff.forms.base import Form
from falloff.forms.factored import Factored
from falloff.forms.potential import Potential
from falloff.forms.strip import Strip
from falloff.forms.sums import Sum
from falloff.forms.warp import Warp

__all__ = ["FORMS", "Band", "Factored", "Form", "Potential", "Strip", "Sum", "Warp", "form_from_tensors"]

FORMS: dict[str, type[Form]] = {form.kind: form for form in (Strip, Band, Warp, Factored, Potential)}
"""By kind. The kind of a sum is those of its forms, joined by "+"."""


def form_from_tensors(kind: str, tensors: Sequence[Tensor], numbers: Sequence[int]) -> Form:
    """The form with this `kind`, these `tensors` and these `numbers`, as an operator takes them.

    Raises:
        ValueError: if they do not fit the kind.
    """
    if kind == "":
        raise ValueError(f"form_tensors: got {len(tensors)} tensors, expected none for form_kind ''")
    kinds = kind.split("+")
    forms = [FORMS[part] for part in kinds if part in FORMS]
    if len(forms) < len(kinds):
        expected = f"'' or one of {', '.join(map(repr, FORMS))}, or a few of them joined by '+'"
        raise ValueError(f"form_kind: got {kind!r}, expected {expected}")
    names = [name for form in forms for name in form.tensor_names]
    if len(tensors) != len(names):
        expected = f"{len(names)} for form_kind {kind!r}: {', '.join(names)}"
        raise ValueError(f"form_tensors: got {len(tensors)} tensors, expected {expected}")
    count = sum(len(form.number_names) for form in forms)
    if len(numbers) != count:
        raise ValueError(f"form_numbers: got {len(numbers)}, expected {count} for form_kind {kind!r}")
    rest, numbers_left = list(tensors), list(numbers)
    parts = []
    for form in forms:
        some, more = len(form.tensor_names), len(form.number_names)
        parts.append(form.of(rest[:some], numbers_left[:more]))
        del rest[:some], numbers_left[:more]
    made = parts[0] if len(parts) == 1 else Sum(parts)
    if made.kind != kind:  # of two strips, which a sum makes one, or in another order
        raise ValueError(f"form_kind: got {kind!r}, expected {made.kind!r}: each kind once, in the order of a Sum")
    return made
