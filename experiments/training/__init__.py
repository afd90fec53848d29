"""Training: train.py tells a run from its data to its results; parallel.py many of them."""
