"""MMSegmentation."""
import copy
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from rich.progress import track
from torch import Tensor, nn

from ..errors import ConfigError, DatasetError, shortened
from ..io.files import check_folder
from ..io.images import image_size, read_label_image
from .base import Task, Toolbox, heads_in
from .datasets import datasets_of, innermost

#: From this many labels on, reading them takes long enough to show progress.
SHOW_PROGRESS = 1000


class Segment(Task):
    """Gives each pixel a class."""

    name, covers = 'segmentation', 'backbone, neck and decode head, logits resized to the image'
    decision, adds_maps = 'argmax', True

    def forward(self, model: nn.Module, image: Tensor) -> list[Tensor]:
        """(N, channels, H, W), normalised -> logits, (N, classes, H, W)."""
        logits = model(image, mode='tensor')
        return [F.interpolate(logits, size=image.shape[2:], mode='bilinear', align_corners=model.align_corners)]


class Segmentation(Toolbox):
    """Segmentors of mmseg."""

    task = Segment()
    scope = 'mmseg'
    tta_model = dict(type='SegTTAModel')
    drawing = 'DrawnSegmentation'

    def adapt_config(self, cfg: Config, loaders: Sequence[str]) -> None:
        """Check that the heads of a config have as many classes as the data sets.

        Raises:
            ConfigError: If a data set has no classes, or a head has another number of them.
        """
        for loader, dataset in datasets_of(cfg, loaders):
            if not self.classes_of(dataset):
                raise ConfigError(f'{cfg.filename or "the config"}, {loader}: {dataset.get("type")} has no classes; '
                                  "give it metainfo=dict(classes=('first', ...), palette=[[R, G, B], ...])")
        super().adapt_config(cfg, loaders)

    def heads(self, model: Mapping) -> Iterator[tuple[str, int]]:
        """Name and number of classes of each head; see :meth:`Toolbox.heads`."""
        return heads_in(model, 'decode_head', 'auxiliary_head')

    def attach(self, model: nn.Module, cfg: Config, meta: Mapping[str, Any]) -> None:
        """Attach config, classes and colours; see :meth:`Toolbox.attach`."""
        super().attach(model, cfg, meta)
        for _, dataset in datasets_of(cfg, ['test_dataloader']):  # mmseg's inference_model reads this variable
            cfg.test_pipeline = copy.deepcopy(dataset.get('pipeline'))
        # mmseg draws the names of classes, and counts them.
        classes = model.dataset_meta['classes'] or [f'class {i}' for i in range(model.num_classes)]
        model.dataset_meta['classes'], palette = classes, model.dataset_meta['palette']
        if palette == 'random' or len(palette) != len(classes):  # mmseg draws colours where there are none
            drawn = DATASETS.build(dict(type='BaseSegDataset', metainfo=dict(classes=classes), lazy_init=True))
            model.dataset_meta['palette'] = drawn.metainfo['palette']

    @master_only
    def check_dataset(self, dataset: Any) -> None:
        """Check that every image has a label of its size and known classes, and every label an image.

        mmseg itself does not check this: a label outside of the classes is an index error in the loss (on a GPU without
        a useful message), or is left out of the metrics. All labels are read, by several threads: on two cores, 1,000
        of 480 x 360 in 1 s. In a distributed run, only one process does so. Data sets whose pipeline loads no labels
        are not checked.

        Raises:
            DatasetError: Naming the first file that does not fit.
        """
        for inner in innermost(dataset):
            prefix = getattr(inner, 'data_prefix', None)
            if not hasattr(inner, 'reduce_zero_label') or not _loads_labels(inner.pipeline):
                continue
            if prefix.get('seg_map_path') and '://' not in prefix['img_path'] + prefix['seg_map_path']:
                _check(inner, prefix['seg_map_path'])

    def enable_slide(self, cfg: Config, size: int) -> None:
        """Test on overlapping squares; see :meth:`Toolbox.enable_slide`."""
        if size < 32:
            raise ConfigError(f'--slide {size}: squares must have at least 32 pixels a side')
        cfg.model.test_cfg = dict(mode='slide', crop_size=(size, size), stride=(size * 2 // 3, size * 2 // 3))

    def dump_predictions(self, cfg: Config, out: str) -> None:
        """Save the predictions of a test as label maps in the folder ``out``."""
        check_folder(out, 'image.png', '--out')
        from . import drawings  # noqa: F401, it registers the hook
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='LabelMaps', out_dir=out)]


class _Pair(NamedTuple):
    image: str
    label: str


def _loads_labels(transform: Any) -> bool:
    parts = [part for name in ('transforms', 'subroutines') for part in getattr(transform, name, None) or []]
    return 'LoadAnnotations' in type(transform).__name__ or any(map(_loads_labels, parts))


def _check(dataset: Any, label_dir: str) -> None:
    start = time.perf_counter()
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    pairs = [_Pair(info['img_path'], info['seg_map_path']) for info in infos]
    _check_unused(dataset, pairs, label_dir)
    meanings = _Meanings(dataset)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda pair: _look(pair, meanings), pairs)  # which an error of one ends
        empty = len(pairs) - sum(track(looks, 'checking labels', len(pairs), disable=len(pairs) < SHOW_PROGRESS))
    if empty:
        line = f'{empty} of {len(pairs)} labels in {label_dir} hold ignored values only'
        if empty == len(pairs):
            raise DatasetError(f'{line}; there is nothing to learn or to test')
        print_log(f'{line}; they are not used for training', 'current', logging.WARNING)
    classes = meanings.classes
    print_log(f'{len(pairs)} labels in {label_dir} fit their images and the {classes} classes '
              f'(checked in {time.perf_counter() - start:.1f} s)', logger='current')


def _check_unused(dataset: Any, pairs: Sequence[_Pair], label_dir: str) -> None:
    if dataset.ann_file or dataset._indices is not None:  # other files are left out on purpose
        return
    used = {os.path.abspath(pair.label) for pair in pairs}
    labels = (os.path.abspath(os.path.join(folder, name)) for folder, _, names in os.walk(label_dir)
              for name in names if name.endswith(dataset.seg_map_suffix))
    if left := sorted(set(labels) - used):
        raise DatasetError(f'{len(left)} labels have no image {dataset.data_prefix["img_path"]}/*{dataset.img_suffix}, '
                           f'first {left[0]}; add the images, or write the names to use into a file and set ann_file')


class _Meanings:
    """Meaning of the values 0-255 in a file.

    Attributes:
        classes: The number of classes.
        learned: Values that become a class; bool (256,).
        valid: Values that become a class or are ignored; bool (256,).
    """

    def __init__(self, dataset: Any):
        values = np.arange(256)
        if dataset.reduce_zero_label:
            values = np.where((values == 0) | (values == 255), 255, values - 1)
        mapped = values.copy()
        for old, new in (dataset.label_map or {}).items():
            mapped[values == old] = new
        self.classes = len(dataset.metainfo['classes'])
        self.learned = (mapped < self.classes) & (mapped != dataset.ignore_index)
        self.valid = self.learned | (mapped == 255) | (mapped == dataset.ignore_index)


def _look(pair: _Pair, meanings: _Meanings) -> bool:
    """Whether a label, which is checked, has a pixel of a class."""
    label = read_label_image(pair.label)
    values = np.unique(label) if label.dtype != np.uint8 else np.flatnonzero(np.bincount(label.ravel()))
    if bad := [int(value) for value in values if not 0 <= value < 256 or not meanings.valid[int(value)]]:
        raise DatasetError(f'{pair.label} holds {shortened(map(str, bad), 5)}; for {meanings.classes} classes, '
                           f'expected {_ranges(meanings.valid)}')
    size = image_size(pair.image)
    if size and size != label.shape[::-1]:
        raise DatasetError(f'{pair.image} is {size[0]} x {size[1]} pixels, but its label {pair.label} is '
                           f'{label.shape[1]} x {label.shape[0]}')
    return bool(meanings.learned[values.astype(int)].any())


def _ranges(valid: np.ndarray) -> str:
    """The true indices of a bool (256,) as text, such as ``0-10 and 255``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], valid, [0]]).astype(np.int8)))
    spans = zip(edges[::2], edges[1::2] - 1, strict=True)
    return ' and '.join(str(first) if first == last else f'{first}-{last}' for first, last in spans)
