"""What happens between sampled completions and the vectors: the stages of a training step."""
