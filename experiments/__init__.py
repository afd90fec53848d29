"""The research program: data, the training loop, runs, figures. Imports the library only."""
