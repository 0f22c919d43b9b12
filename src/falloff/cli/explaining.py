"""Explaining schemes: `falloff explain`."""

from typing import Annotated, Any

import typer

from falloff.cli.json_keys import explained_keys, print_json
from falloff.cli.printing import print_view
from falloff.cli.settings import Json, NumHeads, SchemeName, Seed, build_scheme, is_random, with_settings
from falloff.named import scheme_class
from falloff.views.explanations import explanation_view
from falloff.views.properties import scheme_properties


@with_settings
def explain(
    scheme: SchemeName,
    trained_length: Annotated[
        int,
        typer.Option("--trained-length", min=2, max=16384, help="Show how the bias goes on beyond this length."),
    ] = 512,
    num_heads: NumHeads = 8,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Explain a scheme: formula, parameters, and properties computed from its values.

    A learned scheme has its initial values, which are random for most: see --seed.

    Keys of --json: scheme, kind, formula, paper, reading, settings, num_heads, seed, parameters (list of name, shape,
    count), num_parameters, and properties: null if the bias depends on content, else an object with toeplitz,
    not_toeplitz_from (row or null), rows_compared, monotone, falling_heads, rising_heads, bounded, lowest, highest,
    farthest (offset), sign_symmetric, future_constant, reach (offset or null), keys, mass (list of window, least, median,
    largest over heads), mass_reach (least, median, largest) and beyond (trained_length, length, verdict, before, after,
    same_offset, untrained_buckets).

    Example: falloff explain fire --trained-length 1024
    """
    cls = scheme_class(scheme, "SCHEME")
    bias = build_scheme(cls, num_heads, seed, settings)
    properties = None if bias.needs_content else scheme_properties(bias, trained_length)
    if as_json:
        print_json(explained_keys(bias, seed, properties))
        return
    start = ""
    if any(True for _ in bias.parameters()):
        start = f"random, seed {seed}" if is_random(cls, num_heads, settings) else "fixed"
    print_view(explanation_view(bias, properties, start))
