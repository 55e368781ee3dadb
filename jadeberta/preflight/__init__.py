"""`jadeberta preflight`: is this allocation fit to train on, and which host is not?

Every rank looks at its own machine (`alone`), meets the others (`meeting`) and measures with them (`together`); rank 0 judges, by a
pure function (`judge`). Nothing here imports DeepSpeed, and nothing waits without a limit.
"""
