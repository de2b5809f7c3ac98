"""Everything made from a finished run: the lens on its vectors, its page, files for other tools."""
