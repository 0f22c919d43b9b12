"""The benchmarks behind `falloff bench`: attention with a bias beside what else PyTorch offers for it.

They are a room of the library and not scripts beside it, since a figure is only worth as much as what stands behind it,
and that is code like any other: a benchmark verifies the result against the definition before it times it (`verify`),
times all contestants in turn within one process (`timing`), and measures memory in a process of its own (`memory`). It
refuses to report wrong results. Suites for GPUs and for Transformers will stand here too.

Only torch is needed to run a suite; rich draws tables and progress, matplotlib figures, each imported where it is used.
"""
