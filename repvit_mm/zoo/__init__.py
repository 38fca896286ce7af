"""The published models, the recomputation of their figures, tables and plots."""
from .rows import TABLES, Row, load_rows
from .verdicts import Comparison, verdict

__all__ = ['TABLES', 'Comparison', 'Row', 'load_rows', 'verdict']
