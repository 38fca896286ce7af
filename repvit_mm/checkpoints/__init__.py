"""Checkpoints: formats, safe reading, loading, and the published ones by name."""
from .classes import check_classes, classes_of, meta_of
from .converting import convert_file
from .download import fetch, published
from .formats import NAME_FORMATS, convert_state_dict, find_backbones
from .loading import adapt_names, load_checkpoint, load_into, refuse_random_start, unwrapped
from .reading import check_finite, invalid_tensors, load_for_mmengine, patch_readers, read_checkpoint, tensors_of

__all__ = [
    'NAME_FORMATS', 'adapt_names', 'check_classes', 'check_finite', 'classes_of', 'convert_file',
    'convert_state_dict', 'fetch', 'find_backbones', 'invalid_tensors', 'load_checkpoint', 'load_for_mmengine',
    'load_into', 'meta_of', 'patch_readers', 'published', 'read_checkpoint', 'refuse_random_start', 'tensors_of',
    'unwrapped',
]
