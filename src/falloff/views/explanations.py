"""The explanation of a scheme: its paper's facts, and properties computed from its values."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from falloff.schemes.base import Scheme
from falloff.schemes.settings import settings_of
from falloff.views.always import always
from falloff.views.beyond import Beyond
from falloff.views.buckets import Bucketed
from falloff.views.comparison import FACTS, Column
from falloff.views.no_bias import NoBias
from falloff.views.position_pairs import PositionPair
from falloff.views.properties import Properties
from falloff.views.reasons import bucket_rule


def explanation_view(scheme: Scheme, properties: Properties | None, origin: str) -> RenderableType:
    """The explanation of a scheme as a rich renderable.

    Args:
        scheme: any scheme.
        properties: from `scheme_properties`; None if the bias depends on content.
        origin: where the values of the parameters are from, such as 'random, seed 0'; empty if there are none.
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
    if isinstance(scheme, Bucketed):
        named.add_row("buckets", Text(bucket_rule(scheme)))
    named.add_row("parameters", Text(_parameters(scheme)))
    if origin:
        named.add_row("values", Text(origin))
    parts: list[RenderableType] = [Text(scheme.name, style="bold"), named, Text()]
    if properties is None:
        parts.append(Text("The bias depends on what the tokens say: without a model it has no values."))
        return Group(*parts)
    heads = "1 head" if properties.num_heads == 1 else f"{properties.num_heads} heads"
    parts.append(Text(f"Computed from the values of {heads}", style="bold"))
    stated = always(scheme, properties.beyond.trained_length)
    parts.append(_computed(properties, stated))
    if any(True for _ in scheme.parameters()):
        parts.append(
            Text(
                "always: so for every value of the parameters; now: so for these values. Numbers are those of these values.",
                style="dim",
            )
        )
    return Group(*parts, Text(), _mass(properties))


def no_bias_view(found: NoBias) -> RenderableType:
    """The explanation of what is no bias."""
    named = _facts()
    for name, said in (
        ("kind", found.kind),
        ("formula", found.formula),
        ("paper", found.paper),
        ("in words", found.reading),
    ):
        named.add_row(name, Text(said))
    return Group(Text(found.name, style="bold"), named)


def comparison_view(columns: Sequence[Column], trained_length: int) -> RenderableType:
    """Schemes side by side; what holds for the present values only is marked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("", style="cyan", no_wrap=True)
    for column in columns:
        table.add_column(Text(column.name), overflow="fold", ratio=1)
    for fact in FACTS:
        cells = [column.facts[fact] + (" *" if fact in column.at_hand else "") for column in columns]
        table.add_row(f"beyond {trained_length}" if fact == "beyond" else fact, *map(Text, cells))
    note = "* for the present values of the parameters; all else holds for every value"
    marked = any(column.at_hand for column in columns)
    return Group(table, *([Text(note, style="dim")] if marked else []))


def pairs_view(name: str, head: int, pairs: Sequence[PositionPair], said: str) -> RenderableType:
    """Pairs of positions with the bias of one head, and what they show."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("query", "key", "offset", "bias"):
        table.add_column(title, justify="right")
    for pair in pairs:
        table.add_row(str(pair.query), str(pair.key), str(pair.offset), f"{pair.bias:.6g}")
    return Group(Text(f"{name}: pairs of positions, head {head}", style="bold"), table, *([Text(said)] if said else []))


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


def _computed(found: Properties, stated: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, title, said in (
        ("toeplitz", "Toeplitz", _toeplitz(found)),
        ("monotone", "monotone", _monotone(found)),
        ("bounded", "bounded", _bounded(found)),
        ("sign_symmetric", "sign-symmetric", _sign_symmetric(found)),
        ("reach", "reach", _reach(found)),
        ("beyond", f"beyond {found.beyond.trained_length}", _beyond(found.beyond)),
    ):
        table.add_row(title, "always" if name in stated else "now", said)
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
