"""Many experiments on one loaded base."""
