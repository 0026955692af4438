"""Checkpoints on the Hugging Face Hub: model card, upload, load by name."""
