"""What only tests have: test-time augmentation, and predictions kept and drawn."""
import copy
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from ..errors import ConfigError
from .data import datasets_of

#: Toolbox -> what merges the predictions of augmented images, where the config has no ``tta_model``.
_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


class _Drawing(NamedTuple):
    """How a toolbox draws.

    Attributes:
        hook: Its visualisation hook.
        settings: What lets the hook draw every image.
        directory: The hook's setting for where to; None if it leaves that to the visualizer.
        visualizer: What the hook draws with.
    """

    hook: str
    settings: dict
    directory: str | None
    visualizer: str


_DRAWINGS = {
    'mmdet': _Drawing('DetVisualizationHook', dict(draw=True), 'test_out_dir', 'DetLocalVisualizer'),
    'mmseg': _Drawing('SegVisualizationHook', dict(draw=True), None, 'SegLocalVisualizer'),
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
        ConfigError: If it is no such file.
    """
    evaluators = cfg.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        cfg.test_evaluator = [{**evaluator, 'output_dir': out} for evaluator in evaluators]
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out {out} must end with .pkl or .pickle')
    metric = 'mmdet.DumpDetResults' if scope == 'mmdet' else 'mmengine.DumpResults'
    cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=out)]


def draw_predictions(cfg: Config, directory: str) -> None:
    """Draw the predictions of a test, with the toolbox's own visualisation hook.

    Of a classifier, a confusion matrix and the worst mistakes are drawn, and a table of all predictions is written; see
    :class:`repvit_mm.classification.ClassificationReport`.

    Args:
        cfg: Changed in place.
        directory: Where the pictures go.

    Raises:
        ConfigError: If the config is for no toolbox that is known to draw.
    """
    scope, directory = cfg.get('default_scope'), os.path.abspath(directory)
    if scope == 'mmpretrain':
        evaluators = cfg.test_evaluator
        evaluators = [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)
        cfg.test_evaluator = [*evaluators, dict(type='ClassificationReport', out_dir=directory)]
        return
    if scope not in _DRAWINGS:
        raise ConfigError(f'--show-dir needs a config for {", ".join(_DRAWINGS)} or mmpretrain; this one has '
                          f'default_scope={scope!r}')
    drawing = _DRAWINGS[scope]
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    if 'visualization' not in cfg.default_hooks:
        cfg.default_hooks.visualization = dict(type=drawing.hook)
    cfg.default_hooks.visualization.update(drawing.settings)
    if drawing.directory:
        cfg.default_hooks.visualization[drawing.directory] = directory
        return
    if 'visualizer' not in cfg:
        cfg.visualizer = dict(type=drawing.visualizer, name='visualizer')
    others = [backend for backend in cfg.visualizer.get('vis_backends') or [] if backend.type != 'LocalVisBackend']
    cfg.visualizer.vis_backends = [*others, dict(type='LocalVisBackend', img_save_dir=directory)]
