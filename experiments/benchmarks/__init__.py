"""Every performance figure as a program: `python -m experiments.benchmarks.step`, and so on.

Each takes --smoke (tiny sizes, the same code), --out FILE.json and --rounds N, runs on whatever
device JAX finds, and compares its variants with float64 before it times them.
"""
