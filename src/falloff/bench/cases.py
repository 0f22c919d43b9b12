"""The cases of each suite."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

BIASES = {
    "none": "no bias",
    "t5": "T5",
    "alibi": "ALiBi",
    "kerple-log": "KERPLE-log",
    "sandwich": "Sandwich",
    "fire": "FIRE",
    "band": "Band",
    "profiles": "Inkling",
    "transformer-xl": "Transformer-XL",
    "forgetting": "FoX",
}
"""The biases of the cases, with their names in tables."""
CONTENT = ("profiles", "transformer-xl", "forgetting")
"""Those that depend on the content of the tokens by way of a few tensors, without a scheme."""

_LARGEST_DENSE = 2048**2  # queries x keys for which a small machine has memory and time for the float64 definition
_VERIFIED_LENGTH = 1024


@dataclass(frozen=True)
class Case:
    """One call of attention: its bias, sizes and dtype, and whether gradients are computed.

    Without `training`, only the forward pass is timed, without gradients.

    >>> case = Case("forward", "t5", length=4096, causal=True)
    >>> case.name, case.gflop
    ('forward: T5 causal N=4096', 17.179869184)
    """

    group: str
    bias: str
    length: int
    causal: bool = False
    training: bool = False
    batch: int = 1
    heads: int = 8
    head_size: int = 64
    dtype: str = "float32"
    cache: int | None = None
    """The number of keys, if there are more than queries: decoding against a cache."""
    key_heads: int | None = None
    """The number of key heads, if there are fewer than query heads."""
    flex: bool = False
    """Whether flex attention takes part if --flex is given: it compiles for half a minute per case."""

    @property
    def keys(self) -> int:
        return self.length if self.cache is None else self.cache

    @property
    def all_key_heads(self) -> int:
        return self.heads if self.key_heads is None else self.key_heads

    @property
    def hides_keys(self) -> bool:
        """Whether the causal mask hides any key: from a single query at the end it hides none."""
        return self.causal and self.length > 1

    @property
    def label(self) -> str:
        """The case within its group."""
        words = [BIASES[self.bias], "causal" if self.causal else "full"]
        if self.batch != 1:
            words.append(f"B={self.batch}")
        words.append(f"N={self.length}")
        if self.cache is not None:
            words[1:2] = []  # the last query sees every key, causal or not
            words.append(f"M={self.cache}")
        if self.heads != 8 and self.group == "decode":
            words.append(f"H={self.heads}")
        if self.key_heads is not None:
            words.append(f"G={self.key_heads}")
        if self.head_size != 64:
            words.append(f"D={self.head_size}")
        if self.training and self.group in ("short", "long", "content"):  # in other groups all cases train, or none
            words.append("train")
        return " ".join(words)

    @property
    def name(self) -> str:
        return f"{self.group}: {self.label}"

    @property
    def gflop(self) -> float:
        """10^9 operations: 4 B H N M D forward, half of that if causal, 3.5 times as much with the backward pass."""
        forward = 4 * self.batch * self.heads * self.length * self.keys * self.head_size / 1e9
        return forward * (0.5 if self.hides_keys else 1.0) * (3.5 if self.training else 1.0)

    @property
    def verified_as(self) -> "Case":
        """This case, or the same at a length that the dense definition can take."""
        if self.length * self.keys <= _LARGEST_DENSE:
            return self
        return replace(self, length=_VERIFIED_LENGTH, cache=None if self.cache is None else _VERIFIED_LENGTH)


def _cpu_cases() -> list[Case]:
    forward = [
        Case("forward", "t5", length, causal, flex=length in (1024, 4096))
        for causal in (False, True)
        for length in (512, 1024, 2048, 4096, 8192)
    ]
    wide = [Case("forward", "t5", 2048, causal, head_size=128) for causal in (False, True)]
    forms = [Case("forms", bias, length, causal=True) for bias in ("fire", "band") for length in (1024, 4096)]
    far = [Case("far", "alibi", length, causal=True, flex=length == 8192) for length in (8192, 16384)]
    training = [Case("training", "t5", length, causal=True, training=True) for length in (1024, 2048, 4096)]
    training += [Case("training", "fire", length, causal=True, training=True) for length in (1024, 4096)]
    halves = [
        Case(group, "t5", length, True, "training" in group, dtype="bfloat16", flex=length == 4096)
        for group in ("bfloat16", "bfloat16 training")
        for length in (1024, 4096)
    ]
    decode = [Case("decode", "t5", 1, cache=8192)]
    short = [
        Case("short", "t5", length, True, training, batch=8) for training in (False, True) for length in (128, 256, 512)
    ]
    encoder = [Case("short", "t5", 512, causal=False, training=True, batch=8)]
    return [*forward, *wide, *forms, *far, *training, *halves, *decode, *short, *encoder]


CPU_CASES = _cpu_cases()
"""The suite `cpu`, group after group."""

MEMORY_CASES = [
    Case("memory", bias, length, causal=True, training=True)
    for length in (4096, 8192, 16384)
    for bias in ("t5", "alibi", "fire")
]
MEMORY_CASES += [Case("memory", "profiles", 16384, causal=True, training=True, head_size=128)]
"""The suite `memory`."""

SCALING_CASES = [
    Case(group, bias, length, causal=True, training=group == "training")
    for group in ("forward", "training")
    for length in (512, 1024, 2048, 4096, 8192, 16384)
    for bias in ("alibi", "t5", "fire")
]
"""The suite `scaling`: cases with the same group and length are timed together."""


CALLS_CASES = [
    *(Case("calls", bias, 1, causal=True, cache=128) for bias in BIASES if bias not in ("band", *CONTENT)),
    *(
        Case("decode", bias, 1, causal=True, cache=8192, heads=heads, key_heads=key_heads, head_size=head_size)
        for bias in ("none", "t5")
        for heads, key_heads in ((8, None), (32, 8))
        for head_size in (64, 128)
    ),
]
"""The suite `calls`: calls so small that the work before the kernel takes as long as the kernel."""


def _beside_sdpa(group: str, lengths: Sequence[int], batch: int) -> list[Case]:
    return [
        Case(group, "t5", length, causal, training, batch=batch)
        for training in (False, True)
        for causal in (True, False)
        for length in lengths
    ]


SHORT_CASES = _beside_sdpa("short", (128, 256, 512), batch=8)
"""The suite `short`: encoders and fine-tuning."""

LONG_CASES = _beside_sdpa("long", (2048, 4096, 8192), batch=1)
"""The suite `long`: how close the kernels come to the peak."""


CONTENT_CASES = [
    *(Case("content", "profiles", 4096, causal=True, training=training, head_size=128) for training in (False, True)),
    *(Case("content", "transformer-xl", 2048, training=training) for training in (False, True)),
    *(Case("content", "forgetting", 8192, causal=True, training=training) for training in (False, True)),
]
"""The suite `content`: biases that depend on the content of the tokens."""


def cases_named(part: str | None, cases: Sequence[Case]) -> list[Case]:
    """The cases whose name contains `part`, in upper or lower case; all cases for None.

    Raises:
        ValueError: if there is no such case.

    >>> [case.name for case in cases_named("decode", CPU_CASES)]
    ['decode: T5 N=1 M=8192']
    """
    found = [case for case in cases if part is None or part.lower() in case.name.lower()]
    if not found:
        groups = ", ".join(dict.fromkeys(case.group for case in cases))
        raise ValueError(f"--cases: got {part!r}, expected part of a name such as {cases[0].name!r}; groups are {groups}")
    return found
