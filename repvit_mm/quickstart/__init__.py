"""Training, evaluating and fusing a detector on the embedded data set, for ``tools/quickstart.py``."""
from .steps import Quickstart, check_unchanged

__all__ = ['Quickstart', 'check_unchanged']
