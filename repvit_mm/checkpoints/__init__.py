"""Checkpoints: formats, safe reading, loading, and the published ones by name."""
from .converting import convert_file
from .download import fetch, published
from .formats import FORMATS, convert_state_dict, find_backbones
from .loading import adapt_names, load_checkpoint, load_into, refuse_random_start
from .reading import (
                      check_classes,
                      check_finite,
                      classes_of,
                      invalid_tensors,
                      load_for_mmengine,
                      meta_of,
                      read_checkpoint,
                      read_without_code,
                      tensors_of,
)

__all__ = [
    'FORMATS', 'adapt_names', 'check_classes', 'check_finite', 'classes_of', 'convert_file', 'convert_state_dict',
    'fetch', 'find_backbones', 'invalid_tensors', 'load_checkpoint', 'load_for_mmengine', 'load_into', 'meta_of',
    'published', 'read_checkpoint', 'read_without_code', 'refuse_random_start', 'tensors_of',
]
