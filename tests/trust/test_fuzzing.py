"""Random and damaged files and settings: each is taken, or refused as a UserError; nothing else is raised, or run."""
import copy
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import RunsCode, tensors
from mmseg.datasets import BaseSegDataset
from PIL import Image

from repvit_mm import RepViT
from repvit_mm.checkpoints import load_into, read_checkpoint, tensors_of
from repvit_mm.errors import UserError
from repvit_mm.io.coco import check_coco
from repvit_mm.io.images import read_image
from repvit_mm.toolboxes.segmentation import Segmentation

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, settings, strategies  # noqa: E402

#: Examples of each fuzzer in the short form, and in the long one.
FEW, MANY = 25, 1000
#: Milliseconds that the answer to any example may take.
PATIENCE = 5000
ARCH = {'widths': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}


def fuzz(**inputs):
    """A test of the short form and, marked `trust`, of the long one."""
    def wrap(function):
        def test(examples, tmp_path_factory):
            folder = tmp_path_factory.mktemp('fuzz')

            @settings(max_examples=examples, deadline=PATIENCE, database=None,
                      suppress_health_check=list(HealthCheck))
            @given(**inputs)
            def run(**drawn):
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    try:
                        function(folder, **drawn)
                    except UserError as error:
                        assert str(error)
                assert not Path('EXECUTED').exists()
            run()
        test.__name__ = function.__name__
        return pytest.mark.parametrize('examples', [FEW, pytest.param(MANY, marks=pytest.mark.trust)])(test)
    return wrap


def saved(content, legacy):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


GOOD = [saved(content, legacy) for legacy in (False, True)
        for content in ({'state_dict': tensors()}, {'model': {'a': torch.ones(2)}, 'x': RunsCode()})]
numbers = strategies.integers() | strategies.floats()
scalars = strategies.none() | strategies.booleans() | numbers | strategies.text(max_size=6)
json_values = strategies.recursive(scalars, lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(
    strategies.text(max_size=4), inner, max_size=3), max_leaves=8)
#: Where a file is changed, as a fraction of its length, and to what.
damages = strategies.lists(strategies.tuples(strategies.floats(0, 1), strategies.binary(max_size=4)), max_size=4)


def damaged(content, changes, keep=1.):
    content = bytearray(content)
    for place, change in changes:
        start = int(place * len(content))
        content[start:start + len(change)] = change
    return bytes(content[:int(keep * len(content))])


def load(path):
    load_into(RepViT(ARCH), read_checkpoint(path), str(path), strict=False)


@fuzz(good=strategies.sampled_from(GOOD), changes=damages, keep=strategies.floats(0, 1) | strategies.just(1.))
def test_checkpoint_with_damaged_bytes(folder, good, changes, keep):
    (folder / 'x.pth').write_bytes(damaged(good, changes, keep))
    load(folder / 'x.pth')


@fuzz(content=strategies.binary(max_size=300),
      head=strategies.sampled_from([b'', b'PK\x03\x04', b'\x80\x02', b'\x80\x04}']))
def test_checkpoint_of_random_bytes(folder, content, head):
    (folder / 'x.pth').write_bytes(head + content)
    load(folder / 'x.pth')


NAMES = list(tensors())
names = scalars | strategies.sampled_from(NAMES) | strategies.binary(max_size=3) | strategies.builds(
    lambda name, part: name.replace('0', part), strategies.sampled_from(NAMES),
    strategies.text('0123456789.x', max_size=30))
values = strategies.sampled_from([
    torch.ones(2), torch.ones(()), torch.ones(0), torch.ones(2).bool(), torch.ones(2).to(torch.complex64),
    torch.ones(2, 2).to_sparse(), torch.ones(2, device='meta'), torch.ones(1).expand(1 << 40), torch.ones(2).half(),
    torch.ones(2).to(torch.float8_e4m3fn), torch.full((2,), float('nan'))]) | scalars


@fuzz(added=strategies.dictionaries(names, values, max_size=4), whole=strategies.booleans(),
      under=strategies.sampled_from(['state_dict', 'model', 'x', None]), meta=scalars)
def test_checkpoint_of_odd_names_and_types(folder, added, whole, under, meta):
    content = {**(tensors() if whole else {}), **added}
    found = tensors_of({under: content, 'meta': meta}, 'x.pth')
    load_into(RepViT(ARCH), found, 'x.pth', strict=False)


COCO = {'images': [{'id': 1, 'file_name': 'a', 'height': 9, 'width': 9}], 'categories': [{'id': 1, 'name': 'a'}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5], 'area': 25, 'iscrowd': 0,
                         'segmentation': [[1, 1, 5, 1, 5, 5]]}]}


#: Run lengths, more or less.
masks = strategies.fixed_dictionaries({'size': json_values | strategies.just([9, 9]),
                                       'counts': json_values | strategies.lists(numbers)})


@fuzz(kind=strategies.sampled_from(list(COCO)), value=json_values | masks, key=strategies.sampled_from(
    [None, 'whole', *sorted({key for entries in COCO.values() for key in entries[0]})]))
def test_annotations_of_coco(folder, kind, key, value):
    """What is taken can be drawn by pycocotools, which crashes on what it does not check."""
    from pycocotools.coco import COCO as Reader
    content = copy.deepcopy(COCO)
    if key is None:
        content[kind] = value
    elif key == 'whole':
        content[kind][0] = value
    else:
        content[kind][0][key] = value
    check_coco(taken := json.loads(json.dumps(content)), 'x.json')
    reader = Reader()
    reader.dataset = taken
    reader.createIndex()
    for annotation in taken['annotations']:
        if annotation.get('segmentation') and annotation['image_id'] in reader.imgs and annotation.get('bbox'):
            height, width = (reader.imgs[annotation['image_id']][side] for side in ('height', 'width'))
            if height * width < 1e6:
                try:
                    reader.annToMask(annotation)
                except ValueError as error:  # how it refuses run lengths in text
                    assert 'RLE' in str(error)


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, kind, **options)
    return buffer.getvalue()


pictures = strategies.sampled_from([encoded('PNG'), encoded('JPEG'), encoded('TIFF'), encoded('BMP'), encoded('GIF'),
                                    encoded('WEBP')])


@fuzz(good=pictures, changes=damages, keep=strategies.floats(0, 1) | strategies.just(1.))
def test_pictures(folder, good, changes, keep):
    (folder / 'x.png').write_bytes(damaged(good, changes, keep))
    read_image(folder / 'x.png')


@fuzz(good=pictures, changes=damages, keep=strategies.floats(0, 1) | strategies.just(1.))
def test_label_images(folder, good, changes, keep):
    prefix = {key: str(folder / key) for key in ('img_path', 'seg_map_path')}
    for path in prefix.values():
        Path(path).mkdir(exist_ok=True)
        Path(path, 'x.png').write_bytes(damaged(good, changes, keep))
    Segmentation().check_dataset(BaseSegDataset(
        data_prefix=prefix, img_suffix='.png', metainfo=dict(classes=list('abcdefghi')),
        pipeline=[dict(type='LoadAnnotations')]))


odd = json_values | strategies.lists(numbers, max_size=5).map(tuple)


SETTINGS = ['arch', 'in_channels', 'out_indices', 'feature_tap', 'last_stride', 'strides',
            'frozen_stages', 'norm_cfg', 'norm_eval', 'act_cfg', 'drop_path_rate', 'with_cp', 'deploy']


@fuzz(given_settings=strategies.dictionaries(strategies.sampled_from(SETTINGS), odd, max_size=2),
      arch=strategies.dictionaries(strategies.sampled_from(['widths', 'depths', 'first_version', 'se', 'x']), odd,
                                   max_size=2))
def test_settings_of_the_backbone(folder, given_settings, arch):
    with torch.device('meta'):  # a large model is none of our mistakes
        RepViT(**{'arch': {**ARCH, **arch}, **given_settings})
