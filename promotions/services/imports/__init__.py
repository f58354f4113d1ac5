"""Catalogues and shoppers from CSV files: all rows or none, the same file twice changes nothing."""

from promotions.services.imports.errors import BadRow, ImportRefused
from promotions.services.imports.promos import promos_import
from promotions.services.imports.reading import open_csv
from promotions.services.imports.shoppers import shoppers_import
from promotions.services.imports.staging import Counts, ImportResult

__all__ = [
    "BadRow",
    "Counts",
    "ImportRefused",
    "ImportResult",
    "open_csv",
    "promos_import",
    "shoppers_import",
]
