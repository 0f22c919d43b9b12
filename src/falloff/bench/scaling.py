"""The suite `scaling`: time against length, forward and training."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from falloff.bench.cases import Case
from falloff.bench.contestants import NO_BIAS, OURS, ours, without_bias
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.timing import take_turns
from falloff.bench.verify import check_last_rows


def time_all(
    cases: Sequence[Case], impl: str, turns: int | None, peak_gflops: float, progress: Progress
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """Time each case beside SDPA without bias. All cases of a group and length, and one SDPA, take turns."""
    rounds = [list(together) for _, together in groupby(cases, key=lambda case: (case.group, case.length))]
    progress.begin("timing", len(rounds))
    for together in rounds:
        progress.doing(f"{together[0].group}: N={together[0].length}")
        problems = [problem_of(case) for case in together]
        runs = {case.bias: ours(problem, impl) for case, problem in zip(together, problems, strict=True)}
        runs[NO_BIAS] = without_bias(problems[0])
        errors = {
            case.bias: check_last_rows(problem, runs[case.bias]()[0].detach())
            for case, problem in zip(together, problems, strict=True)
        }
        runs[NO_BIAS]()
        timed = take_turns(runs, turns, progress.share)
        found = []
        for case in together:
            gflops = 1e3 * case.gflop / timed.median(case.bias)
            found.append(
                (
                    case,
                    {
                        "last_rows_error": errors[case.bias],
                        "turns": timed.turns,
                        "milliseconds": {OURS: timed.milliseconds[case.bias], NO_BIAS: timed.milliseconds[NO_BIAS]},
                        "skipped": {},
                        "gflops": gflops,
                        "share_of_peak": gflops / peak_gflops,
                        "ratio": {NO_BIAS: timed.median(NO_BIAS) / timed.median(case.bias)},
                    },
                )
            )
        yield found
