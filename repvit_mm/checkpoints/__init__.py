"""Checkpoints: formats, safe reading, loading, and the published ones by name."""
from .converting import convert_file
from .download import fetch
from .formats import FORMATS, convert_state_dict, find_backbones
from .integration import adapt_names, load_for_mmengine, read_without_code, refuse_random_start
from .loading import load_checkpoint, load_into
from .reading import check_finite, invalid_tensors, read_checkpoint, tensors_of
from .release import published

__all__ = [
    'FORMATS', 'adapt_names', 'check_finite', 'convert_file', 'convert_state_dict', 'fetch', 'find_backbones',
    'invalid_tensors', 'load_checkpoint', 'load_for_mmengine', 'load_into', 'published', 'read_checkpoint',
    'read_without_code', 'refuse_random_start', 'tensors_of',
]
