"""The published models, the recomputation of their figures, tables and plots."""
from .rows import TABLES, Row, load_rows
from .verdicts import FigureComparison, verdict

__all__ = ['TABLES', 'FigureComparison', 'Row', 'load_rows', 'verdict']
