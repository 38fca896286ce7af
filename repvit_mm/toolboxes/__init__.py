"""The toolboxes that RepViT is trained and tested with, one module each.

A toolbox is a module here and an entry of :data:`TOOLBOXES`. It is imported only when a config asks for it.
"""
from mmengine.config import Config

from .base import Task, Toolbox
from .classification import Classification
from .datasets import LOADERS, datasets_of
from .detection import Detection
from .segmentation import Segmentation

__all__ = ['LOADERS', 'TOOLBOXES', 'Task', 'Toolbox', 'datasets_of', 'toolbox_of']

#: ``default_scope`` of a config -> toolbox.
TOOLBOXES: dict[str, Toolbox] = {toolbox.scope: toolbox
                                 for toolbox in (Classification(), Detection(), Segmentation())}


def toolbox_of(cfg: Config) -> Toolbox:
    """The toolbox that a config is for; for any other config, a :class:`Toolbox` that checks nothing."""
    return TOOLBOXES.get(cfg.get('default_scope'), Toolbox())
