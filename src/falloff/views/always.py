"""What holds of a bias for every value of its parameters, beside what holds for the values that it has now."""

from falloff.schemes.base import Scheme

PROPERTIES = ("toeplitz", "monotone", "bounded", "sign_symmetric", "reach", "beyond")


def always(scheme: Scheme, trained_length: int = 512) -> tuple[str, ...]:
    """The properties of a bias that do not depend on the values of its parameters, in the order of `PROPERTIES`.

    Without parameters, all of them. Else they follow from what the class states: a Toeplitz bias is one for every value, one
    with a reach is bounded, and constant beyond a trained length above it; what follows from the formula alone is in
    `Scheme.always`.

    >>> from falloff import ALiBi, KerpleLog, T5Bias
    >>> always(T5Bias(8)), always(KerpleLog(8))
    (('toeplitz', 'bounded', 'reach', 'beyond'), ('toeplitz', 'monotone', 'bounded', 'sign_symmetric', 'reach', 'beyond'))
    """
    if not any(True for _ in scheme.parameters()):
        return PROPERTIES
    found = set(scheme.always)
    if scheme.toeplitz:
        found.add("toeplitz")
    if scheme.toeplitz and scheme.reach is not None:
        found |= {"bounded", "reach"}
        if scheme.reach < trained_length:
            found.add("beyond")
    return tuple(name for name in PROPERTIES if name in found)
