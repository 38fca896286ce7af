"""Writes a drawn data set of objects in other formats than COCO's."""
import csv
import json
import shutil
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from pycocotools import mask as mask_utils

SPLITS = ('train', 'val')


def samples(coco, split):
    """Image, entry, and its objects as (name, index of the class, annotation)."""
    content = json.loads((coco / f'annotations/instances_{split}.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    for image in content['images']:
        yield coco / 'images' / split / image['file_name'], image, [
            (names[annotation['category_id']], annotation['category_id'] - 1, annotation)
            for annotation in content['annotations'] if annotation['image_id'] == image['id']]


def copies(coco, root, folder):
    """The samples, with copies of the images in a folder for each split."""
    for split in SPLITS:
        (root / folder / split).mkdir(parents=True)
        for path, image, objects in samples(coco, split):
            yield split, shutil.copyfile(path, root / folder / split / path.name), image, objects


def edges(annotation):
    x, y, width, height = annotation['bbox']
    return x, y, x + width, y + height


def to_voc(coco, root, lists=True):
    """Pascal VOC, as its development kit defines it: the first pixel is 1, and a box has its last pixel."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for split in SPLITS:
        stems = []
        for path, image, objects in samples(coco, split):
            stems.append(f'{split}_{path.stem}')
            shutil.copyfile(path, root / 'JPEGImages' / f'{stems[-1]}.png')
            tree = ET.Element('annotation')
            size = ET.SubElement(tree, 'size')
            for key in ('width', 'height'):
                ET.SubElement(size, key).text = str(image[key])
            for name, _, annotation in objects:
                node = ET.SubElement(tree, 'object')
                ET.SubElement(node, 'name').text = name
                left, top, right, bottom = edges(annotation)
                box = ET.SubElement(node, 'bndbox')
                for key, value in dict(xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom).items():
                    ET.SubElement(box, key).text = str(value)
            ET.ElementTree(tree).write(root / 'Annotations' / f'{stems[-1]}.xml')
        if lists:
            (root / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(stems) + '\n')
    return root


def to_yolo(coco, root, polygons=False):
    """A text file for each image: class and box, or class and outline, relative to the size of the image."""
    for split, path, image, objects in copies(coco, root, 'images'):
        size = np.array([image['width'], image['height']])
        lines = []
        for _, label, annotation in objects:
            left, top, right, bottom = edges(annotation)
            values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top] / np.tile(size, 2)
            if polygons:
                values = (outline(annotation['segmentation']) / size).ravel()
            lines.append(' '.join(map(str, [label, *values])))
        (root / 'labels' / split).mkdir(parents=True, exist_ok=True)
        (root / 'labels' / split / f'{path.stem}.txt').write_text('\n'.join(lines) + '\n')
    categories = json.loads((coco / 'annotations/instances_train.json').read_text())['categories']
    names = '\n'.join(f'  {i}: {category["name"]}' for i, category in enumerate(categories))
    (root / 'data.yaml').write_text(f'train: ../images/train\nval: ../images/val\nnames:\n{names}\n')
    return root


def to_labelme(coco, root):
    """A JSON file beside each image, as LabelMe 5 writes it; every second object is a polygon."""
    for _, path, image, objects in copies(coco, root, ''):
        shapes = []
        for i, (name, _, annotation) in enumerate(objects):
            left, top, right, bottom = edges(annotation)
            points = [[left, top], [right, bottom]]
            points[1:1] = [[right, top]] * (i % 2)
            points += [[left, bottom]] * (i % 2)
            shapes.append(dict(label=name, points=points, group_id=None, flags={},
                               shape_type='polygon' if i % 2 else 'rectangle'))
        path.with_suffix('.json').write_text(json.dumps(dict(
            version='5.4.1', flags={}, shapes=shapes, imagePath=path.name, imageData='', imageHeight=image['height'],
            imageWidth=image['width'])))


def to_csv(coco, root):
    """A table beside the images of each split, as Roboflow writes it for TensorFlow."""
    rows = {split: [['filename', 'width', 'height', 'class', 'xmin', 'ymin', 'xmax', 'ymax']] for split in SPLITS}
    for split, path, image, objects in copies(coco, root, ''):
        rows[split] += [[path.name, image['width'], image['height'], name, *edges(annotation)]
                        for name, _, annotation in objects]
    for split in SPLITS:
        with (root / split / '_annotations.csv').open('w', newline='') as file:
            csv.writer(file).writerows(rows[split])


def to_cvat(coco, root):
    """CVAT for images 1.1."""
    tree = ET.Element('annotations')
    for split, path, image, objects in copies(coco, root, 'images'):
        node = ET.SubElement(tree, 'image', id='0', name=f'{split}/{path.name}', subset=split.title(),
                             width=str(image['width']), height=str(image['height']))
        for name, _, annotation in objects:
            ET.SubElement(node, 'box', label=name, occluded='0',
                          **dict(zip(('xtl', 'ytl', 'xbr', 'ybr'), map(str, edges(annotation)), strict=True)))
    ET.ElementTree(tree).write(root / 'annotations.xml')


def to_label_studio(coco, root):
    """Label Studio's JSON: percent of the image, and an upload's name."""
    tasks = []
    for split, path, image, objects in copies(coco, root, 'images'):
        if split == 'val':
            path = path.rename(path.with_name(f'v{path.name}'))
        result = []
        for name, _, annotation in objects:
            size = np.array([image['width'], image['height']] * 2)
            x, y, width, height = (np.array(annotation['bbox']) / size * 100).tolist()
            result.append(dict(type='rectanglelabels', original_width=image['width'], original_height=image['height'],
                               value=dict(x=x, y=y, width=width, height=height, rotation=0, rectanglelabels=[name])))
        tasks.append(dict(data=dict(image=f'/data/upload/1/0a1b2c3d-{path.name}'), annotations=[dict(result=result)]))
    (root / 'project.json').write_text(json.dumps(tasks))


def outline(segmentation):
    """The longest outline of a mask, at the outer edges of its pixels; (points, 2)."""
    mask = mask_utils.decode(segmentation)
    large = cv2.resize(mask, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(outlines, key=len)[:, 0] / 8
