"""MMPretrain."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoints import convert_state_dict, tensors_of
from ..errors import DatasetError, shortened
from ..io.class_folders import find_classes, read_label_file
from .base import Task, Toolbox, evaluators_of
from .datasets import datasets_of


class Classify(Task):
    """Gives each image a class."""

    name, covers, decision = 'classification', 'backbone and classifier', 'softmax'

    def forward(self, model: nn.Module, image: Tensor) -> list[Tensor]:
        """(N, channels, H, W), normalised -> logits, (N, classes)."""
        return [model(image, mode='tensor')]


class ClassifySeveral(Classify):
    """Gives each image any number of labels, each with a sigmoid: nothing decides between them."""

    decision = None


MULTI_LABEL = ClassifySeveral()


class Classification(Toolbox):
    """Classifiers of mmpretrain."""

    task = Classify()
    scope = 'mmpretrain'
    loader_defaults = dict(pin_memory=True, persistent_workers=True, collate_fn=dict(type='default_collate'))
    tta_model = dict(type='AverageClsScoreTTA')
    drawing = 'DrawnClasses'

    def adapt_config(self, cfg: Config, loaders: Sequence[str]) -> None:
        """Fit the model to the classes in the image folders or label files of the config.

        Sets the number of classes of the head and of the preprocessor, and drops top-k accuracies whose k is not
        below that number. Configs with other data sets are left unchanged.

        Raises:
            DatasetError: See :func:`repvit_mm.io.class_folders.find_classes` and
                :func:`repvit_mm.io.class_folders.read_label_file`, or if the data sets of the config have
                different classes.
        """
        # This imports mmpretrain, and registers what configs name.
        roots = sorted({dataset['data_root'] for _, dataset in datasets_of(cfg) if _is_image_folder(dataset)})
        files = sorted({os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
                        for _, dataset in datasets_of(cfg, loaders) if _has_label_file(dataset)})
        found = {root: find_classes(root) for root in roots} | {path: read_label_file(path) for path in files}
        if not found:
            return
        (root, classes), *others = found.items()
        for other, names in others:
            if names != classes:
                raise DatasetError(f'{root} has the classes {shortened(classes)}, but {other} has {shortened(names)}')
        cfg.model.head.num_classes = len(classes)
        for preprocessor in (cfg.get('data_preprocessor'), cfg.model.get('data_preprocessor')):
            if preprocessor is not None:
                preprocessor.num_classes = len(classes)
        for evaluator in evaluators_of(cfg, 'val_evaluator') + evaluators_of(cfg):
            if isinstance(evaluator.get('topk'), list | tuple):
                evaluator['topk'] = tuple(k for k in evaluator['topk'] if k < len(classes)) or (1,)
        print_log(f'{root} has {len(classes)} classes: {shortened(classes)}', 'current')

    def attach(self, model: nn.Module, cfg: Config, meta: Mapping[str, Any]) -> None:
        """Attach config and classes, under mmpretrain's names, too; see :meth:`Toolbox.attach`."""
        super().attach(model, cfg, meta)
        model._config, model._dataset_meta, model._metainfo = cfg, model.dataset_meta, None

    def data_meta(self, cfg: Config) -> Mapping[str, Any]:
        """The classes of the test data, as far as they are known without the files."""
        given = [dataset.get('classes') for _, dataset in datasets_of(cfg, ['test_dataloader'])]
        return {'classes': self.classes(cfg) or (given[0] if given and isinstance(given[0], list | tuple) else None)}

    def fit_to_weights(self, cfg: Config, checkpoint: Any) -> None:
        """Take the number of classes from a checkpoint if the data, which need not exist here, define it."""
        if not any(_is_image_folder(dataset) or _has_label_file(dataset)
                   for _, dataset in datasets_of(cfg, ['test_dataloader'])):
            return
        tensors = convert_state_dict(tensors_of(checkpoint, 'the checkpoint'))
        for name in ('head.fc.linear.weight', 'head.fc.weight'):
            if name in tensors:
                cfg.model.head.num_classes = len(tensors[name])

    def task_of(self, model: nn.Module) -> Task:
        """How inference runs for a model with one label per image, or several."""
        from mmpretrain.models import MultiLabelClsHead
        return MULTI_LABEL if isinstance(getattr(model, 'head', None), MultiLabelClsHead) else self.task


def _is_image_folder(dataset: Mapping) -> bool:
    return dataset.get('type') in ('ImageFolder', 'repvit_mm.ImageFolder')


def _has_label_file(dataset: Mapping) -> bool:
    return dataset.get('type') in ('MultiLabelDataset', 'mmpretrain.MultiLabelDataset') and 'ann_file' in dataset
