"""The embedded data set of geometric objects."""
from .scenes import CLASSES, Scene, SceneObject, SceneSpec, draw_scene
from .shapes import write_classification, write_coco, write_multilabel, write_segmentation

__all__ = [
    'CLASSES', 'Scene', 'SceneObject', 'SceneSpec', 'draw_scene', 'write_classification', 'write_coco',
    'write_multilabel', 'write_segmentation'
]
