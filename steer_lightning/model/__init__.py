"""The frozen language model: its policy, its placement in memory, and access to its internals."""
