"""The frozen language model, how it lies in memory, and the doors to its insides."""
