"""Checkpoints: formats, safe reading, loading, and the published ones by name."""
from .adapting import adapt_names, refuse_random_start
from .classes import check_classes, classes_of, meta_of
from .converting import convert_file
from .download import fetch, published
from .formats import NAME_FORMATS, convert_state_dict, find_backbones
from .loading import load_checkpoint, load_into, load_other
from .reading import check_finite, invalid_tensors, load_for_mmengine, patch_readers, read_checkpoint, tensors_of

__all__ = [
    'NAME_FORMATS', 'adapt_names', 'check_classes', 'check_finite', 'classes_of', 'convert_file', 'convert_state_dict',
    'fetch', 'find_backbones', 'invalid_tensors', 'load_checkpoint', 'load_for_mmengine', 'load_into', 'load_other',
    'meta_of', 'published', 'read_checkpoint', 'patch_readers', 'refuse_random_start', 'tensors_of',
]
