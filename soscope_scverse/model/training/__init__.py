"""Training in two phases, with checkpoints."""
