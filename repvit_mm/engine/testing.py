"""What only tests have: test-time augmentation, and predictions kept and drawn."""
import copy
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import ConfigError
from ..files import make_folder
from .data import datasets_of

#: Toolbox -> what merges the predictions of augmented images, where the config has no ``tta_model``.
_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def enable_tta(cfg: Config) -> None:
    """Test with the config's ``tta_model`` and ``tta_pipeline``, else with every image and its mirror image.

    Raises:
        ConfigError: If the toolbox cannot merge the model's predictions.
    """
    scope = cfg.get('default_scope')
    if 'tta_model' not in cfg:
        if scope not in _TTA_MODELS:
            raise ConfigError(f'--tta needs a tta_model in a config with default_scope={scope!r}')
        if scope == 'mmdet' and _has_key(cfg.model, 'mask_head'):
            raise ConfigError('--tta: mmdet merges boxes only, and this model predicts masks')
    for _, dataset in datasets_of(cfg, ['test_dataloader']):
        dataset['pipeline'] = copy.deepcopy(cfg.tta_pipeline) if 'tta_pipeline' in cfg else _mirrored(
            dataset['pipeline'], scope)
    cfg.model = ConfigDict(**cfg.get('tta_model', _TTA_MODELS.get(scope)), module=cfg.model)


def _mirrored(pipeline: list[dict], scope: str) -> list[dict]:
    *loading, packing = copy.deepcopy(list(pipeline))
    if scope == 'mmdet':  # which leaves out what tells the images apart
        keys = packing.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        packing['meta_keys'] = tuple(dict.fromkeys((*keys, 'flip', 'flip_direction')))
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0., 1.)]
    return [*loading, dict(type='TestTimeAug', transforms=[flips, [packing]])]


def enable_slide(cfg: Config, size: int) -> None:
    """Test a segmentor on overlapping squares of the image, a third of each covered by the next, instead of the whole.

    Args:
        cfg: Changed in place.
        size: Side of a square in pixels of the resized image.

    Raises:
        ConfigError: If the config is for no segmentor, or the squares are smaller than the backbone's largest stride.
    """
    if cfg.get('default_scope') != 'mmseg':
        raise ConfigError(f'--slide is for segmentors, but the config has default_scope={cfg.get("default_scope")!r}')
    if size < 32:
        raise ConfigError(f'--slide {size}: a square has at least 32 pixels a side')
    cfg.model.test_cfg = dict(mode='slide', crop_size=(size, size), stride=(size * 2 // 3, size * 2 // 3))


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_key(item, key) for item in value)
    if not isinstance(value, Mapping):
        return False
    return key in value or any(_has_key(item, key) for item in value.values())


def dump_predictions(cfg: Config, out: str) -> None:
    """Keep the predictions of a test.

    Args:
        cfg: Changed in place.
        out: A ``.pkl`` file; for segmentation, a directory for label maps.

    Raises:
        ConfigError: If it is no such file, or its folder cannot be made.
    """
    evaluators = cfg.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        make_folder(out, '--out')
        cfg.test_evaluator = [{**evaluator, 'output_dir': out} for evaluator in evaluators]
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out {out} must end with .pkl or .pickle')
    make_folder(os.path.dirname(out) or '.', '--out')
    metric = 'mmdet.DumpDetResults' if scope == 'mmdet' else 'mmengine.DumpResults'
    cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=out)]


def draw_predictions(cfg: Config, directory: str) -> None:
    """Draw the predictions of a test.

    A detector's go over its images, by mmdet's own hook; a segmentor's beside image and ground truth, with a legend,
    see :class:`repvit_mm.segmentation.SegmentationPictures`. Of a classifier, a confusion matrix and the worst mistakes
    are drawn, and all predictions written as a table, see :class:`repvit_mm.classification.ClassificationReport`.

    Args:
        cfg: Changed in place.
        directory: Where the pictures go.

    Raises:
        ConfigError: If the config is for no toolbox whose predictions can be drawn, or the folder cannot be made.
    """
    make_folder(directory, '--show-dir')
    scope, directory = cfg.get('default_scope'), os.path.abspath(directory)
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    if scope == 'mmpretrain':
        evaluators = cfg.test_evaluator
        evaluators = [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)
        cfg.test_evaluator = [*evaluators, dict(type='ClassificationReport', out_dir=directory)]
    elif scope == 'mmdet':
        settings = hooks.get('visualization') or dict(type='DetVisualizationHook')
        hooks.visualization = dict(settings, draw=True, test_out_dir=directory)
    elif scope == 'mmseg':
        hooks.visualization = dict(type='SegmentationPictures', out_dir=directory)
    else:
        raise ConfigError('--show-dir needs a config for mmdet, mmseg or mmpretrain; this one has '
                          f'default_scope={scope!r}')
