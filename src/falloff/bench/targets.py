"""Targets, printed beside the measured values. They are for information: nothing passes or fails by them."""

from typing import Any

from falloff.bench.cases import Case

_CALLS = {"none": 2.0, "t5": 3.0, "alibi": 3.0, "fire": 4.0}  # times the time of SDPA
_OPERATORS = {"t5": 6, "alibi": 4, "sandwich": 4, "kerple-log": 10, "fire": 25}
_BUSY = 5.0  # times the quiet time
# By length: times as fast as SDPA without bias, causal and full, forward and with backward; share of the peak, causal.
_SHORT = {128: (1.6, 1.2, 1.5, 1.2, 0.42), 256: (1.9, 1.3, 1.9, 1.2, 0.55), 512: (2.1, 1.3, 2.2, 1.3, 0.65)}
# Share of the peak, AVX2 and AVX-512: full, causal, and with backward.
_LONG = {False: ((0.80, 0.72), 0.75), True: ((0.85, 0.78), 0.75)}

# Of the suite `content`, by bias and whether it trains: at least, and the aim, as times as fast as a contestant.
_CONTENT: dict[tuple[str, bool], dict[str, tuple[float, float]]] = {
    ("profiles", False): {"falloff, no bias": (0.8, 0.9)},
    ("profiles", True): {"falloff, no bias": (0.8, 0.9), "falloff, band": (1.2, 1.5)},
    ("transformer-xl", True): {"eager": (4.0, 8.0)},
    ("forgetting", False): {"sdpa, no bias": (1.5, 4.0)},
}


def content_targets(case: Case) -> dict[str, tuple[float, float]]:
    """The targets of a case of the suite `content`: for a contestant, at least how many times as fast, and the aim.

    >>> content_targets(Case("content", "forgetting", 8192))
    {'sdpa, no bias': (1.5, 4.0)}
    """
    return _CONTENT.get((case.bias, case.training), {})


def targets_of(case: Case, isa: str | None) -> dict[str, Any]:
    """The targets of a case by key: `ratio` (SDPA's time over that of falloff), `share_of_peak`, `busy`, `operators`.

    >>> targets_of(Case("calls", "t5", 1, cache=128), "avx2")
    {'ratio': 0.3333333333333333, 'busy': 5.0, 'operators': 6}
    """
    if case.group == "calls":
        found: dict[str, Any] = {"ratio": 1 / _CALLS[case.bias]} if case.bias in _CALLS else {}
        found["busy"] = _BUSY
        return found | ({"operators": _OPERATORS[case.bias]} if case.bias in _OPERATORS else {})
    if case.group == "decode":
        return {"ratio": 1.0}
    if case.group == "short":
        if case.length not in _SHORT:
            return {}
        *ratios, share = _SHORT[case.length]
        shares = {} if case.training or not case.causal else {"share_of_peak": share}
        return {"ratio": ratios[2 * case.training + (not case.causal)], **shares}
    forward, training = _LONG[isa is not None and isa.startswith("avx512")]
    return {"share_of_peak": training if case.training else forward[case.causal]}
