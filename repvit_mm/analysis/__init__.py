"""Counting and measuring models."""
from .complexity import Complexity, count

__all__ = ['Complexity', 'count']
