"""What is written down of a run: screen, files, curves, Weights & Biases, provenance, energy."""
