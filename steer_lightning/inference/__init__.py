"""One loaded base with any number of vectors, which answers requests as they come."""
