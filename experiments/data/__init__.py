"""The data of the experiments: tasks as device arrays, and the image sets as plain uint8 arrays.

`load("mnist", folder)` returns an image set, from wherever it can be had; `python -m
experiments.data` keeps it as one file. `tasks.py` makes every kind of data a `Task`.
"""

from experiments.data.datasets import Dataset
from experiments.data.images import load
from experiments.data.sources import DataError
from experiments.data.task import Split, Task

__all__ = ["DataError", "Dataset", "Split", "Task", "load"]
