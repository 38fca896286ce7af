"""The published models, and the recomputation of their figures."""
from .rows import TABLES, Row, load_rows

__all__ = ['TABLES', 'Row', 'load_rows']
