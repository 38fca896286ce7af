"""Annotation files of images with several labels, in the format of mmpretrain's ``MultiLabelDataset``."""
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .files import read_json

FORMAT = '{"metainfo": {"classes": [NAME, ...]}, "data_list": [{"img_path": PATH, "gt_label": [NUMBER, ...]}, ...]}'


def read_label_file(path: str | Path) -> list[str]:
    """Check an annotation file, and return the names of its classes.

    mmpretrain itself stops in the middle of an epoch, at the image whose labels are wrong.

    Args:
        path: The JSON file.

    Raises:
        DatasetError: If it cannot be read, has another format, or a label is not the number of a class.
    """
    content = read_json(path)
    try:
        classes, samples = content['metainfo']['classes'], content['data_list']
        labels = [(str(sample['img_path']), sample['gt_label']) for sample in samples]
    except (KeyError, TypeError) as error:
        raise DatasetError(f'{path} is not a file of labels: expected {FORMAT}') from error
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise DatasetError(f'{path}: metainfo.classes is {str(classes)[:100]!r}, expected a list of names')
    wrong = [(image, numbers) for image, numbers in labels if not _are_numbers(numbers, len(classes))]
    if wrong:
        image, numbers = wrong[0]
        raise DatasetError(f'{path}: {len(wrong)} of {len(labels)} images have labels that are not a list of numbers '
                           f'from 0 to {len(classes) - 1}, first {image}: {numbers!r}')
    return classes


def _are_numbers(labels: Any, classes: int) -> bool:
    return isinstance(labels, list) and all(type(label) is int and 0 <= label < classes for label in labels)
