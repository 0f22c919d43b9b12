"""The refusal of a bias that depends on content, which only exists while a model runs."""

from falloff.schemes.base import Scheme


def refuse_without_content(scheme: Scheme | type[Scheme], argument: str = "scheme") -> None:
    """Raise if the bias of a scheme depends on content.

    Raises:
        ValueError: with the command that explains the scheme.

    >>> from falloff import ProfileMixture
    >>> refuse_without_content(ProfileMixture)
    Traceback (most recent call last):
    ...
    ValueError: scheme: got 'profile-mixture', whose bias depends on what the tokens say, expected one that has a bias \
without a model (`falloff explain` describes the scheme)
    """
    if scheme.needs_content:
        raise ValueError(
            f"{argument}: got {scheme.name!r}, whose bias depends on what the tokens say, expected one that has a bias "
            "without a model (`falloff explain` describes the scheme)"
        )
