"""RepViT-SAM (https://arxiv.org/abs/2312.05760): segment anything with a RepViT as the image encoder.

Prompt encoder, mask decoder, predictor and automatic mask generator are those of the ``segment-anything`` package.
"""
from ..errors import ConfigError

try:
    import segment_anything  # noqa: F401
except ModuleNotFoundError as error:
    raise ConfigError(f'RepViT-SAM needs segment-anything, and {error.name} is not installed; '
                      'pip install "repvit-mm[sam]"') from error

from ..io.images import read_image
from .build import assemble, build_sam
from .encoder import SamEncoder
from .masks import Mask, segment, segment_everything
from .prompts import Prompt

__all__ = ['Mask', 'Prompt', 'SamEncoder', 'assemble', 'build_sam', 'read_image', 'segment', 'segment_everything']
