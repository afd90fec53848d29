"""Every performance figure as a program: `python -m experiments.benchmarks.step`, and so on.

Each takes --smoke (tiny sizes, the same code) and --out FILE.json, and runs on whatever device JAX
finds. Those that time the library compare it with float64 before; those that time the training
loop (grid, profile) run the loop of `experiments.run`.
"""
