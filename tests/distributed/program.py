"""The program of the ranks: runs every case on 2, 3 and 4 processes, and writes what failed as JSON.

One process imports torch and falloff, and the ranks are copies of it: an import takes seconds.

    python -m distributed.program FOLDER
"""

import json
import multiprocessing
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from distributed import checks
from distributed.cases import BUDGETED, EXACT, WORLDS
from distributed.ranks import hold_exactly, hold_within_budget

SECONDS = 60
"""How long a rank waits for another one."""


def work_of(world):
    """What the ranks of a group of this size do, by name."""
    work = {str(case): (hold_exactly, case) for case in EXACT if case.world == world}
    work |= {str(case): (hold_within_budget, case) for case in BUDGETED if case.world == world}
    return work | {f"{name} on {world}": (check, world) for name, (check, worlds) in checks.ALL.items() if world in worlds}


def rank(number, world, folder):
    """The work of one rank. After a failure on any of them, ranks would wait for each other: the rest is not run."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{world}"), world)
    dist.init_process_group("gloo", store=store, rank=number, world_size=world, timeout=timedelta(seconds=SECONDS))
    found = {}
    for name, (do, case) in work_of(world).items():
        try:
            do(case)
            found[name] = ""
        except AssertionError as error:  # where all ranks are done with a case, the next one can run
            found[name] = str(error) or traceback.format_exc()
        except Exception:
            found[name] = traceback.format_exc()
            break
        finally:
            (folder / f"{world}-{number}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(folder):
    for world in WORLDS:
        fork = multiprocessing.get_context("fork")
        ranks = [fork.Process(target=rank, args=(number, world, folder)) for number in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
