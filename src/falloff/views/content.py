"""What cannot be shown of a bias that depends on what the tokens say."""

from falloff.schemes.base import Scheme


def refuse_without_content(scheme: Scheme | type[Scheme], argument: str = "scheme") -> None:
    """Refuse a scheme whose bias is only there while a model runs.

    Raises:
        ValueError: saying what there is to see of it.

    >>> from falloff import ProfileMixture
    >>> refuse_without_content(ProfileMixture)
    Traceback (most recent call last):
    ...
    ValueError: scheme: got 'profile-mixture', whose bias depends on what the tokens say, expected one that has a bias \
without a model (`falloff explain` says what there is to say)
    """
    if scheme.needs_content:
        raise ValueError(
            f"{argument}: got {scheme.name!r}, whose bias depends on what the tokens say, expected one that has a bias "
            "without a model (`falloff explain` says what there is to say)"
        )
