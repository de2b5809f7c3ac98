"""Everything made from a finished run: lens results, report pages, files for other tools."""
