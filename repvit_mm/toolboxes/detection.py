"""MMDetection."""
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..errors import ConfigError, DatasetError, shortened
from .base import Task, Toolbox, evaluators_of, heads_in
from .datasets import datasets_of, innermost


class Detect(Task):
    """Finds objects.

    Inference stops at the feature pyramid, whose cost does not depend on the content of the image; for boxes and masks
    see :mod:`repvit_mm.export.detectors`.
    """

    name, covers, adds_maps = 'detection', 'backbone and neck', True
    counted = 'backbone, neck and dense heads, not the RoI heads, whose cost depends on the number of proposals'

    def forward(self, model: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """(N, channels, H, W), normalised -> the maps of the neck."""
        return model.extract_feat(image)

    def output_names(self, backbone: nn.Module, count: int) -> list[str]:
        """``level0``, ..."""
        return [f'level{i}' for i in range(count)]

    def run_heads(self, model: nn.Module, maps: Sequence[Tensor]) -> None:
        """Run the dense heads."""
        for head in ('rpn_head', 'bbox_head'):
            if hasattr(model, head):
                getattr(model, head)(maps)


class Detection(Toolbox):
    """Detectors and instance segmentors of mmdet."""

    task = Detect()
    scope = 'mmdet'
    tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
    dump_metric = 'mmdet.DumpDetResults'
    drawing = 'DrawnObjects'

    def import_toolbox(self, path: str | Path) -> None:
        """Import mmdet, and check the files that it reads."""
        super().import_toolbox(path)
        from .coco import use_our_reader
        use_our_reader()

    def adapt_config(self, cfg: Config, loaders: Sequence[str]) -> None:
        """Check that the heads have as many classes as the data sets; a test reports the AP of each class.

        mmdet itself stops with an index error at the end of a test, or confuses classes. Detectors with a language
        model, and those with heads for only some of the classes, as for panoptic segmentation, are not checked.

        Raises:
            ConfigError: If a head has another number of classes, or the classes are not a list of names.
        """
        _note_folders(cfg, loaders)
        for evaluator in evaluators_of(cfg):
            if evaluator.get('type') in ('CocoMetric', 'mmdet.CocoMetric'):
                evaluator.setdefault('classwise', True)
        super().adapt_config(cfg, loaders)

    def heads(self, model: Mapping) -> Iterator[tuple[str, int]]:
        """Name and number of classes of each head; see :meth:`Toolbox.heads`."""
        if 'language_model' not in model and 'semantic_head' not in model:
            yield from heads_in(model, 'bbox_head', 'mask_head')
            for name, num_classes in heads_in(model.get('roi_head') or {}, 'bbox_head', 'mask_head'):
                yield f'roi_head.{name}', num_classes

    def check_dataset(self, dataset: Any) -> None:
        """Check that annotations in COCO format have every class of the data set, in the same order.

        mmdet numbers the classes in the order of the annotations, but names them in the order of the data set. The
        objects of a training set are counted, too.

        Raises:
            DatasetError: If classes are missing, or in another order, or nothing can be learned.
        """
        datasets = [inner for inner in innermost(dataset) if hasattr(inner, 'cat_ids')]
        for inner in datasets:
            _check_categories(inner)
        if datasets and not any(getattr(inner, 'test_mode', True) for inner in datasets):
            from .coco import check_objects
            check_objects(datasets)

    def enable_tta(self, cfg: Config) -> None:
        """Test with augmented images; see :meth:`Toolbox.enable_tta`."""
        if 'tta_model' not in cfg and _has_key(cfg.model, 'mask_head'):
            raise ConfigError('--tta: mmdet merges boxes only, and this model predicts masks')
        super().enable_tta(cfg)

    def mirrored(self, pipeline: Sequence[Mapping]) -> list[dict]:
        """A pipeline that yields each image and its mirror image, and marks which is which."""
        pipeline = super().mirrored(pipeline)
        (packing,) = pipeline[-1]['transforms'][-1]
        keys = packing.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        packing['meta_keys'] = tuple(dict.fromkeys((*keys, 'flip', 'flip_direction')))
        return pipeline

    def draw_predictions(self, cfg: Config, directory: str) -> None:
        """Draw annotated objects beside predicted ones; panoptic segments with mmdet's own hook."""
        super().draw_predictions(cfg, directory)
        if 'Panoptic' in str(cfg.get('test_dataloader')):
            folder = cfg.default_hooks.visualization.out_dir
            cfg.default_hooks.visualization = dict(type='DetVisualizationHook', draw=True, test_out_dir=folder)


def keep_boxes_precise(model: nn.Module) -> None:
    """Let the parts of a detector that compute boxes do so in single precision under automatic mixed precision.

    mmdet makes anchors, decodes boxes and suppresses them in the precision of the scores, and pools regions in that of
    the maps: bfloat16 moves them by up to 7 pixels, and float16 overflows.
    """
    for module in model.modules():
        if hasattr(module, 'roi_layers'):
            module.register_forward_pre_hook(lambda module, maps_and_regions: _in_single_precision(maps_and_regions))
        if hasattr(module, 'predict_by_feat'):
            module.register_forward_hook(lambda module, images, outputs: _in_single_precision(outputs))


def _in_single_precision(outputs: Any) -> Any:
    if isinstance(outputs, list | tuple):
        return type(outputs)(map(_in_single_precision, outputs))
    return outputs.float() if isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.half) else outputs


def _note_folders(cfg: Config, loaders: Sequence[str]) -> None:
    """Tell the reader of annotations where their images are."""
    from .coco import CheckedCOCO
    for _, dataset in datasets_of(cfg, loaders):
        root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
        folder = os.path.join(root, (prefix.get('img') or '') if isinstance(prefix, Mapping) else '')
        if dataset.get('ann_file') and os.path.isdir(folder) and not dataset.get('backend_args'):
            CheckedCOCO.folders[os.path.realpath(os.path.join(root, dataset['ann_file']))] = folder


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_key(item, key) for item in value)
    if not isinstance(value, Mapping):
        return False
    return key in value or any(_has_key(item, key) for item in value.values())


def _check_categories(dataset: Any) -> None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    known = getattr(dataset, 'cat_ids', None)
    if classes is None or known is None:
        return
    if len(known) < len(classes):
        raise DatasetError(f'{dataset.ann_file} has {len(known)} of the {len(classes)} classes '
                           f"{shortened(classes, 3)}; give the data set the names of its categories, in the file's "
                           'order: metainfo=dict(classes=[...])')
    from .coco import CheckedCOCO
    in_file = [name for name in CheckedCOCO.names.get(dataset.ann_file, ()) if name in classes]
    if in_file and in_file != list(classes):
        raise DatasetError(f'{dataset.ann_file} has the categories in the order {shortened(in_file, 3)}, and mmdet '
                           f'uses that order, but metainfo.classes is {shortened(classes, 3)}; bring them into the '
                           'same order')
