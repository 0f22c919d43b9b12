"""What `falloff compare` trains beside the schemes and `falloff explain` explains, though it is no bias."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NoBias:
    """A way to treat positions without adding anything to the scores."""

    name: str
    kind: str
    formula: str
    paper: str
    reading: str


NO_BIASES = {
    found.name: found
    for found in (
        NoBias(
            name="rope",
            kind="rotation: no bias, nothing is added to the scores and nothing is learned",
            formula=(
                "score = (R(i) q_i) . (R(j) k_j) = q_i . R(j - i) k_j; R(p) turns the pair k of the D/2 pairs of numbers by "
                "the angle p * 10000^(-2k/D)"
            ),
            paper="Su et al. 2021, RoFormer",
            reading=(
                "Turns queries and keys by angles that grow with their positions, so that a score depends on the offset "
                "through both of their contents: no table of offsets describes it. Beyond the trained length, the slow "
                "pairs reach angles that training never showed. `falloff compare` trains it as a baseline."
            ),
        ),
        NoBias(
            name="none",
            kind="none: no positions at all",
            formula="score = q_i . k_j",
            paper="Kazemnejad et al. 2023, NoPE",
            reading=(
                "The bias is 0 at every offset. A causal mask alone still tells positions apart: the first query sees one "
                "key, the next two, and so on. `falloff compare` trains it as a baseline."
            ),
        ),
    )
}
"""By their names in `falloff compare`."""
