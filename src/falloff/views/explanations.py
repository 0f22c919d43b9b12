"""The explanation of a scheme: its paper's facts, and properties computed from its values."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from falloff.schemes.base import Scheme
from falloff.schemes.settings import settings_of
from falloff.views.beyond import Beyond
from falloff.views.properties import Properties


def explanation_view(scheme: Scheme, properties: Properties | None, start_values: str) -> RenderableType:
    """The explanation of a scheme as a rich renderable.

    Args:
        scheme: any scheme.
        properties: from `scheme_properties`; None if the bias depends on content.
        start_values: the origin of the parameters, such as 'random, seed 0'; empty if there are none.
    """
    named = _facts()
    named.add_row("kind", "learned: training moves it" if scheme.kind == "learned" else "heuristic: fixed, not learned")
    named.add_row("formula", Text(scheme.formula))
    for name, said in (("paper", scheme.paper), ("in words", scheme.reading)):
        if said:
            named.add_row(name, Text(said))
    settings = ", ".join(f"{name}={value}" for name, value in settings_of(scheme).items())
    if settings:
        named.add_row("settings", Text(settings))
    named.add_row("parameters", Text(_parameters(scheme)))
    if start_values:
        named.add_row("start values", start_values)
    parts: list[RenderableType] = [Text(scheme.name, style="bold"), named, Text()]
    if properties is None:
        parts.append(Text("The bias depends on what the tokens say: without a model it has no values."))
        return Group(*parts)
    heads = "1 head" if properties.num_heads == 1 else f"{properties.num_heads} heads"
    parts.append(Text(f"Computed from the values of {heads}", style="bold"))
    return Group(*parts, _computed(properties), Text(), _mass(properties))


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    return table


def _parameters(scheme: Scheme) -> str:
    named = [(name, tuple(parameter.shape), parameter.numel()) for name, parameter in scheme.named_parameters()]
    if not named:
        return "none"
    shapes = ", ".join(f"{name} {shape}" if shape else name for name, shape, _ in named)
    return f"{sum(count for _, _, count in named):,}: {shapes}"


def _computed(found: Properties) -> Table:
    table = _facts()
    table.add_row("Toeplitz", _toeplitz(found))
    table.add_row("monotone", _monotone(found))
    table.add_row("bounded", _bounded(found))
    table.add_row("sign-symmetric", _sign_symmetric(found))
    table.add_row("reach", _reach(found))
    table.add_row(f"beyond {found.beyond.trained_length}", _beyond(found.beyond))
    return table


def _toeplitz(found: Properties) -> str:
    compared = f"rows 0 to {found.rows_compared - 1} compared"
    if found.toeplitz:
        return f"yes: the offset alone decides ({compared})"
    return f"no: from row {found.not_toeplitz_from} on the query's position matters too ({compared})"


def _monotone(found: Properties) -> str:
    if found.monotone:
        way = "never rises" if found.falling_heads == found.num_heads else "never falls"
        return f"yes: {way} with distance, in {'the only head' if found.num_heads == 1 else f'all {found.num_heads} heads'}"
    if found.falling_heads + found.rising_heads == 0:
        return "no: every head both rises and falls with distance"
    never = f"{found.falling_heads} never rise and {found.rising_heads} never fall"
    return f"no: of {found.num_heads} heads, {never} with distance"


def _bounded(found: Properties) -> str:
    power = found.farthest.bit_length() - 1
    if found.bounded:
        return f"yes: within {found.lowest:.4g} .. {found.highest:.4g}, no longer growing up to offset 2^{power}"
    return f"no: still growing between offsets 2^{power - 10} and 2^{power}"


def _sign_symmetric(found: Properties) -> str:
    if found.sign_symmetric:
        return "yes: a key n ahead has the bias of a key n back"
    if found.future_constant:
        return "no: every key in the future has the bias of offset 0"
    return "no: past and future differ"


def _reach(found: Properties) -> str:
    if not found.toeplitz:
        return "none of its own: it grows with the row"
    if found.reach is not None:
        return f"{found.reach}: from that offset on the bias no longer changes"
    return f"none: the bias changes at every distance (looked at up to 2^{found.farthest.bit_length() - 1})"


def _beyond(beyond: Beyond) -> str:
    last = beyond.length - 1
    values = f"{beyond.before:.4g} at offset {beyond.trained_length - 1}, {beyond.after:.4g} at {last} (median head)"
    if beyond.same_offset is not None:
        offset = beyond.trained_length - 1
        before, after = f"{beyond.before:.4g}", f"{beyond.same_offset:.4g}"
        values = f"offset {offset} has {before} in row {offset} and {after} in row {last} (median head)"
    said = {
        "constant": f"stays constant: {beyond.after:.4g} at every offset up to {last} (median head)",
        "falling": f"keeps falling: {values}",
        "rising": f"keeps rising: {values}",
        "waving": f"keeps waving, up and down: {values}",
        "mixed": f"differs by head: {values}",
        "squeezed": f"is squeezed: a longer row spreads the same values over more distance; {values}",
        "row-dependent": f"depends on the row; {values}",
    }[beyond.verdict]
    if beyond.untrained_buckets:
        said += f"; {len(beyond.untrained_buckets)} buckets are first used there, so training never reached them"
    return said


def _mass(found: Properties) -> RenderableType:
    """How the softmax mass is spread over the keys if all scores are equal."""
    title = Text(f"Share of softmax mass among {found.keys} keys of equal score, by head", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("nearest keys", justify="right")
    for name in ("least", "median", "largest"):
        table.add_column(name, justify="right")
    for window, share in found.mass.items():
        table.add_row(str(window), *(_percent(part) for part in (share.least, share.median, share.largest)))
    nearest = found.mass_reach
    if nearest.least >= found.keys:
        note = "In no head is the mass of the farthest keys below float32's rounding (2^-24)."
    else:
        most = "all" if nearest.largest >= found.keys else f"{nearest.largest:.0f}"
        note = f"All but 2^-24 (float32's rounding) lies on the nearest {nearest.least:.0f} to {most} keys, by head."
    return Group(title, table, Text(note, style="dim"))


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.9999 else f"{share:.0%}" if share == 1 else ">99.99%"
