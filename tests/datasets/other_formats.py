"""Writes a drawn data set of objects in other formats than COCO's."""
import json
import shutil
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from pycocotools import mask as mask_utils

SPLITS = ('train', 'val')


def _samples(coco, split):
    """Picture, entry, and its objects as (name, index of the class, annotation)."""
    content = json.loads((coco / f'annotations/instances_{split}.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    for image in content['images']:
        yield coco / 'images' / split / image['file_name'], image, [
            (names[annotation['category_id']], annotation['category_id'] - 1, annotation)
            for annotation in content['annotations'] if annotation['image_id'] == image['id']]


def to_voc(coco, root, lists=True):
    """Pascal VOC, as its development kit defines it: the first pixel is 1, and a box has its last pixel."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for split in SPLITS:
        stems = []
        for picture, image, objects in _samples(coco, split):
            stems.append(f'{split}_{picture.stem}')
            shutil.copyfile(picture, root / 'JPEGImages' / f'{stems[-1]}.png')
            tree = ET.Element('annotation')
            size = ET.SubElement(tree, 'size')
            for key in ('width', 'height'):
                ET.SubElement(size, key).text = str(image[key])
            for name, _, annotation in objects:
                node = ET.SubElement(tree, 'object')
                ET.SubElement(node, 'name').text = name
                x, y, width, height = annotation['bbox']
                box = ET.SubElement(node, 'bndbox')
                for key, value in dict(xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height).items():
                    ET.SubElement(box, key).text = str(value)
            ET.ElementTree(tree).write(root / 'Annotations' / f'{stems[-1]}.xml')
        if lists:
            (root / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(stems) + '\n')
    return root


def to_yolo(coco, root, polygons=False):
    """A text file for each picture: class and box, or class and outline, relative to the size of the picture."""
    for split in SPLITS:
        for kind in ('images', 'labels'):
            (root / kind / split).mkdir(parents=True)
        for picture, image, objects in _samples(coco, split):
            shutil.copyfile(picture, root / 'images' / split / picture.name)
            size = np.array([image['width'], image['height']])
            lines = []
            for _, label, annotation in objects:
                x, y, width, height = annotation['bbox']
                values = np.concatenate([([x, y] + np.array([width, height]) / 2) / size, [width, height] / size])
                if polygons:
                    values = (_outline(annotation['segmentation']) / size).ravel()
                lines.append(' '.join(map(str, [label, *values])))
            (root / 'labels' / split / f'{picture.stem}.txt').write_text('\n'.join(lines) + '\n')
    categories = json.loads((coco / 'annotations/instances_train.json').read_text())['categories']
    names = '\n'.join(f'  {i}: {category["name"]}' for i, category in enumerate(categories))
    (root / 'data.yaml').write_text(f'train: ../images/train\nval: ../images/val\nnames:\n{names}\n')
    return root


def _outline(segmentation):
    """The longest outline of a mask, at the outer edges of its pixels; (points, 2)."""
    mask = mask_utils.decode(segmentation)
    large = cv2.resize(mask, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(outlines, key=len)[:, 0] / 8
