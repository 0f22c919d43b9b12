"""The benchmarks of `falloff bench`: falloff's attention compared with PyTorch's other ways to compute it.

A benchmark first verifies the result against the definition (`verify`), and reports nothing if it is wrong. Then it times
all contestants in turns within one process (`timing`), or measures memory in a separate process (`memory`).

A suite needs torch only. rich draws tables and progress, matplotlib figures; each is imported where it is used.
"""
