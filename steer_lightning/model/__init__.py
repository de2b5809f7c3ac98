"""The frozen language model: the policy, its placement in memory, and access to its internals."""
