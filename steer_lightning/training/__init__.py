"""The stages of a training step, from sampled completions to the update of the vectors."""
