"""The toolboxes that RepViT is trained and tested in: all that one of them needs and the others do not.

A toolbox is a module here and a row of :data:`TOOLBOXES`. None of them is imported before a config asks for it.
"""
from mmengine.config import Config

from .base import Task, Toolbox
from .classification import Classification
from .detection import Detection
from .segmentation import Segmentation

__all__ = ['TOOLBOXES', 'Task', 'Toolbox', 'toolbox_of']

#: ``default_scope`` of a config -> toolbox.
TOOLBOXES: dict[str, Toolbox] = {toolbox.scope: toolbox
                                 for toolbox in (Classification(), Detection(), Segmentation())}


def toolbox_of(cfg: Config) -> Toolbox:
    """The toolbox that a config is for; where it is for none of ours, one that checks nothing."""
    return TOOLBOXES.get(cfg.get('default_scope'), Toolbox())
