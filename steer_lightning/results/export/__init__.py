"""Export of vectors to the formats of other tools; each export is read back and compared."""

from steer_lightning.results.export.formats import FORMATS
from steer_lightning.results.export.job import Report, export_vectors

__all__ = ["FORMATS", "Report", "export_vectors"]
