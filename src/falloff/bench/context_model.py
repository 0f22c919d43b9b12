"""A model of context parallel attention: bytes, time and memory of one training call on many GPUs, by method.

Nothing here is measured. `Cluster` states what is assumed; `falloff.distributed.bytes_sent`, which the tests hold to the
bytes that ranks really send, says what moves. A call is one layer's causal attention, forward and backward, in 16 bits
unless said otherwise:

    floating-point operations of all ranks = 3.5 * 4 * N^2 / 2 * D * H

(two products forward, five backward, half of the scores masked), spread evenly (zig-zag order). Then, with K ranks:

    ulysses     time = compute + bytes / speed, each pair of ranks by the link between them
    all-gather  time = compute + bytes / speed: forward in rings through all links of a node at once; backward, where each
                rank gets the shares of its own keys' gradients from all others, as in Ulysses
    ring        time = compute / K + (K - 1) * max(compute / K, bytes of a step / speed of the slowest link): the next keys
                travel while these are attended to; its backward computes the two products of the forward again

and each message takes the latency beside. What else a kernel or a network costs is in the two shares that `Cluster` states.
"""

from dataclasses import dataclass
from typing import Any, get_args

from falloff.distributed.traffic import Method, bytes_sent
from falloff.distributed.ulysses import heads_of

METHODS: tuple[Method, ...] = get_args(Method)

RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
LENGTHS = (2**17, 2**18, 2**20, 2**22, 10_000_000)
"""128k to 10M tokens."""

_BACKWARD = 2.5  # the products of a backward, in those of a forward


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Args:
        name: for the reader.
        tflops: 10^12 floating-point operations a second that a GPU's attention reaches.
        near: bytes a second that a GPU sends to others of its node.
        far: bytes a second that it sends to other nodes.
        per_node: GPUs in a node.
        latency: seconds of a message beside its bytes.
        memory: bytes of a GPU.
    """

    name: str
    tflops: float
    near: float
    far: float
    per_node: int
    latency: float
    memory: float


H100 = Cluster(
    "H100 SXM5 80 GB: 400 TFLOP/s in attention (40% of 989 in bfloat16), 360 GB/s to GPUs of a node (80% of NVLink's 450 in "
    "each direction), 40 GB/s to other nodes (80% of a 400 Gb/s link for each GPU), 20 us a message",
    400.0,
    360e9,
    40e9,
    8,
    20e-6,
    80e9,
)


@dataclass(frozen=True)
class Layer:
    """The shape of the call: a batch of one."""

    heads: int = 32
    key_heads: int = 8
    head_size: int = 128


@dataclass(frozen=True)
class Estimate:
    """What the model says of one call on one rank.

    Args:
        sent: bytes that the rank sends, forward and backward.
        seconds: of the call.
        compute: seconds of its products alone, in a ring with those that are computed again.
        held: bytes of queries, keys, values and outputs that the rank holds at once.
    """

    sent: int
    seconds: float
    compute: float
    held: int


def estimate(method: Method, ranks: int, length: int, layer: Layer, cluster: Cluster, itemsize: int = 2) -> Estimate | None:
    """One call by one method, of numbers of `itemsize` bytes; None for Ulysses with more ranks than heads, which it refuses.

    >>> found = estimate("ring", 64, 2**20, Layer(), H100)
    >>> round(found.compute, 2), round(found.seconds, 2)
    (1.58, 1.58)
    """
    if method == "ulysses" and ranks > layer.heads:
        return None
    shape = {"heads": layer.heads, "key_heads": layer.key_heads, "head_size": layer.head_size}
    ways = [
        bytes_sent(method, ranks=ranks, batch=1, length=length, **shape, itemsize=itemsize, backward=backward)
        for backward in (False, True)
    ]
    forward = 4 * length**2 / 2 * layer.head_size * layer.heads / ranks / (cluster.tflops * 1e12)
    works = (forward, _BACKWARD * forward)
    if method == "ring":
        works = (forward, (1 + _BACKWARD) * forward)
        seconds = sum(_ring(sent, work, ranks, cluster) for sent, work in zip(ways, works, strict=True))
    elif method == "ulysses":
        seconds = sum(works) + sum(_all_to_all(sent, ranks, 4, cluster) for sent in ways)
    else:
        seconds = sum(works) + _gather(ways[0], ranks, cluster) + _all_to_all(ways[1], ranks, 2, cluster)
    return Estimate(sum(ways), seconds, sum(works), _held(method, ranks, length, layer, itemsize))


def _all_to_all(sent: int, ranks: int, exchanges: int, cluster: Cluster) -> float:
    """Pairs within a node and pairs across nodes exchange at the same time, in so many exchanges, one for each tensor."""
    within = (min(ranks, cluster.per_node) - 1) / max(ranks - 1, 1)
    return max(sent * within / cluster.near, sent * (1 - within) / cluster.far) + exchanges * cluster.latency


def _gather(sent: int, ranks: int, cluster: Cluster) -> float:
    """Rings that leave a node by the links of all its GPUs at once."""
    speed = cluster.near if ranks <= cluster.per_node else min(cluster.near, cluster.per_node * cluster.far)
    return sent / speed + 2 * (ranks - 1) * cluster.latency


def _ring(sent: int, work: float, ranks: int, cluster: Cluster) -> float:
    """Each step waits for the slowest rank: the one whose neighbour is on another node."""
    speed = cluster.near if ranks <= cluster.per_node else cluster.far
    step = sent / max(ranks - 1, 1) / speed + cluster.latency
    return work / ranks + (ranks - 1) * max(work / ranks, step)


def _held(method: Method, ranks: int, length: int, layer: Layer, itemsize: int) -> int:
    """Bytes of queries and outputs, keys and values that a rank holds at once in the forward."""
    tokens = -(-length // ranks)
    own = 2 * tokens * (layer.heads + layer.key_heads) * layer.head_size
    keys = 2 * layer.key_heads * layer.head_size
    if method == "ulysses":  # whole heads: where there are fewer key heads than ranks, several ranks hold the same one
        heads = (len(one.queries) + len(one.keys) for one in heads_of(layer.heads, layer.key_heads, ranks))
        return itemsize * (own + 2 * length * max(heads) * layer.head_size)
    return itemsize * (own + (length * keys if method == "all-gather" else 2 * tokens * keys))  # a ring: that come and go


def model(layer: Layer = Layer(), cluster: Cluster = H100) -> dict[str, Any]:
    """The estimates of every length, number of ranks and method: what `--model --json` prints."""
    return {
        "suite": "context-parallel",
        "measured": False,
        "assumed": vars(cluster).copy(),
        "layer": vars(layer).copy(),
        "cases": [
            {
                "length": length,
                "ranks": ranks,
                "methods": {
                    method: None if found is None else vars(found).copy()
                    for method in METHODS
                    for found in [estimate(method, ranks, length, layer, cluster)]
                },
            }
            for length in LENGTHS
            for ranks in RANKS
        ],
    }


def model_table(result: dict[str, Any]) -> list[Any]:
    """The estimates as a rich table, with a line on what was assumed."""
    from rich.table import Table
    from rich.text import Text

    layer, memory = result["layer"], result["assumed"]["memory"]
    table = Table(pad_edge=False, title_justify="left", title_style="bold")
    table.title = (
        f"One layer's causal attention, forward and backward: {layer['heads']} heads, {layer['key_heads']} key heads of "
        f"size {layer['head_size']}, bfloat16, batch 1. Estimated, not measured"
    )
    for heading in ("tokens", "ranks", "products"):
        table.add_column(heading, justify="right")
    for method in METHODS:
        table.add_column(f"{method}\nms", justify="right")
        table.add_column("\nGB sent", justify="right", style="dim")
        table.add_column("\nGB held", justify="right", style="dim")
    before = None
    for case in result["cases"]:
        if case["length"] != before:
            table.add_section()
        found = case["methods"]
        fitting = {name: one["seconds"] for name, one in found.items() if one is not None and one["held"] < memory}
        row = [f"{case['length']:,}" if case["length"] != before else "", f"{case['ranks']}"]
        row.append(f"{1000 * min(one['compute'] for one in found.values() if one is not None):,.1f}")
        for method in METHODS:
            one = found[method]
            if one is None:
                row += ["-", "-", "-"]
                continue
            fastest = method in fitting and one["seconds"] <= min(fitting.values()) * 1.001
            time = f"{1000 * one['seconds']:,.1f}"
            held = f"{one['held'] / 1e9:,.2f}"
            row += [
                f"[bold green]{time}[/]" if fastest else time,
                f"{one['sent'] / 1e9:,.2f}",
                held if one["held"] < memory else f"[red]{held}[/]",
            ]
        table.add_row(*row)
        before = case["length"]
    said = f"Assumed: {result['assumed']['name']}. Green: the fastest that fits; red: more than a GPU has; -: too few heads."
    return [table, Text(said, style="dim")]
