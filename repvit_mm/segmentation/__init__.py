"""What segmentation needs beside mmseg, without importing it: checks of a data set, pictures with a legend."""
from .checks import check_classes, check_segmentation
from .hooks import SegmentationPictures
from .pictures import draw_segmentation

__all__ = ['SegmentationPictures', 'check_classes', 'check_segmentation', 'draw_segmentation']
