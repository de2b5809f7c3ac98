"""What is made of a run: what its vectors say, its page, and files for other tools."""
