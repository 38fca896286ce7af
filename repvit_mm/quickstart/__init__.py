"""The main job end to end on the embedded data set: what ``tools/quickstart.py`` does."""
from .steps import Quickstart, check_unchanged

__all__ = ['Quickstart', 'check_unchanged']
