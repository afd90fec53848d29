"""What was chosen, over the seeds of finished runs: `python -m experiments.chosen RUN ...`."""
