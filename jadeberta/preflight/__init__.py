"""`jadeberta preflight`: checks whether an allocation is fit to train on, and names the hosts that are not.

Every rank checks its own host (`local_checks`), meets the others (`rendezvous`) and runs the benchmarks with them (`host_benchmarks`,
`network_benchmarks`). Rank 0 judges with a pure function (`judge`) and writes the report (`render`). Nothing here imports DeepSpeed, and
every wait has a time limit.
"""
