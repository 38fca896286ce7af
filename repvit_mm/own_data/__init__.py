"""From a folder of data to a config that trains on them, for ``tools/init.py``."""
from .found import Found
from .recognising import FORMATS, recognise
from .writing import Output, choose_folder, describe, write

__all__ = ['FORMATS', 'Found', 'Output', 'choose_folder', 'describe', 'recognise', 'write']
