"""A toolbox as the tools use it: its models, configs and data sets. No toolbox is imported here."""
import contextlib
import copy
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn

from ..errors import ConfigError
from ..io.files import check_folder
from .datasets import datasets_of


class Task:
    """Inference for one kind of model.

    Attributes:
        name: Name in exported files.
        covers: The part of the model that runs.
        decision: How an app interprets the logits: ``'softmax'`` gives the probability of each class, ``'argmax'``
            the class of each pixel; None for outputs that are not logits.
        adds_maps: Whether maps of several resolutions are added up, which requires an image size that is a multiple
            of the largest stride.
        counted: The part whose multiply-adds are counted, if it is not ``covers``; see :meth:`run_heads`.
    """

    name: str
    covers: str
    decision: str | None = None
    adds_maps: bool = False
    counted: str | None = None

    def forward(self, model: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """(N, channels, H, W), normalised -> the outputs of inference."""
        raise NotImplementedError

    def output_names(self, backbone: nn.Module, count: int) -> list[str]:
        """Names of the ``count`` tensors that :meth:`forward` returns."""
        return ['logits']

    def run_heads(self, model: nn.Module, maps: Sequence[Tensor]) -> None:
        """Run the heads that :meth:`forward` leaves out, but a count of multiply-adds includes.

        Args:
            model: The model.
            maps: What :meth:`forward` returned.
        """


class Toolbox:
    """A toolbox, for which the subclasses stand. This class itself is for other configs: it checks nothing.

    Attributes:
        task: The task of its models; see :meth:`task_of`.
        scope: The ``default_scope`` of its configs, and the name of its package.
        loader_defaults: Settings of a data loader that its own tools set by default.
        tta_model: Merges the predictions of augmented images, for configs without a ``tta_model``.
        dump_metric: Type of the metric that saves predictions.
        drawing: Type of the hook that draws predictions.
    """

    task: Task | None = None
    scope = ''
    loader_defaults: Mapping[str, Any] = {}
    tta_model: Mapping[str, Any] | None = None
    dump_metric = 'mmengine.DumpResults'
    drawing = ''

    def import_toolbox(self, path: str | Path) -> None:
        """Import the toolbox.

        Args:
            path: Path of the config, for the error.

        Raises:
            ConfigError: If it is not installed.
        """
        if not self.scope:
            return
        noisy = r'mm(det|seg|pretrain|engine|cv)|torch\.functional'
        warnings.filterwarnings('ignore', category=UserWarning, module=noisy)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # they print what optional packages are missing
                import_module(self.scope)
                import_module(f'{self.scope}.datasets')
        except ModuleNotFoundError as error:
            if error.name.partition('.')[0] != self.scope:
                raise
            raise ConfigError(f'config {path} is for {self.scope}, which is not installed; `repvit-mm '
                              'doctor` shows the command to install it') from error

    def adapt_config(self, cfg: Config, loaders: Sequence[str]) -> None:
        """Check that the heads of a config have as many classes as its data sets.

        Args:
            cfg: Changed in place where the model depends on the data.
            loaders: Keys of the loaders that the run uses.

        Raises:
            ConfigError: If a head has another number of classes, or the classes are not a list of names.
            DatasetError: If the data set does not match the config.
        """
        for loader, dataset in datasets_of(cfg, loaders):
            where, classes = f'{cfg.filename or "the config"}, {loader}', self.classes_of(dataset)
            if isinstance(classes, str):
                if not os.path.isfile(classes):
                    raise ConfigError(f'{where}: classes={classes!r} is one string, not a file; write a list of names, '
                                      f'even for one class: metainfo=dict(classes=[{classes!r}])')
                classes = list_from_file(classes)
            for head, num_classes in self.heads(cfg.get('model') or {}):
                if classes is not None and num_classes != len(classes):
                    raise ConfigError(f'{where}: the data set has {len(classes)} classes, but '
                                      f'model.{head}.num_classes={num_classes}')

    def heads(self, model: Mapping) -> Iterator[tuple[str, int]]:
        """Name and number of classes of each head of a model's config that has the classes of the data."""
        return iter(())

    def check_dataset(self, dataset: Any) -> None:
        """Check a built data set.

        Args:
            dataset: A data set or a wrapper of data sets; those of other toolboxes are not checked.

        Raises:
            DatasetError: If annotations do not fit images or classes.
        """

    def classes(self, cfg: Config) -> Sequence[str] | None:
        """Names of the classes of a config's test data, if they are known."""
        return next((self.classes_of(dataset) for _, dataset in datasets_of(cfg, ['test_dataloader'])), None)

    def classes_of(self, dataset: Mapping) -> Sequence[str] | str | None:
        """Names of the classes in a data set's config or of its type, or a file with them; None if they are unknown."""
        kind = dataset.get('type')
        if isinstance(kind, str):
            kind = DATASETS.get(kind if '.' in kind or not self.scope else f'{self.scope}.{kind}')
        return {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}.get('classes')

    def task_of(self, model: nn.Module) -> Task:
        """How inference runs for a built model: by default, as for all models of the toolbox."""
        return self.task

    def attach(self, model: nn.Module, cfg: Config, meta: Mapping[str, Any]) -> None:
        """Attach the attributes that the toolbox's inference functions expect, and select its scope.

        Args:
            model: Gets the config as ``cfg``, and names and colours of its classes as ``dataset_meta``.
            cfg: Its config.
            meta: The ``meta`` of its checkpoint, whose classes go before those of the config.

        Raises:
            ConfigError: If the data set of the config cannot be built, even without its files.
        """
        init_default_scope(self.scope)
        try:
            known = self.data_meta(cfg)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'the test data of {cfg.filename} is not a data set of {self.scope}: '
                              f'{" ".join(str(error).split())}') from error
        stored = meta.get('dataset_meta', meta)  # versions of 2022 wrote CLASSES and PALETTE into meta itself
        stored = {str(key).lower(): value for key, value in stored.items()
                  if isinstance(value, list | tuple)} if isinstance(stored, Mapping) else {}
        model.cfg, model.dataset_meta = cfg, {'classes': stored.get('classes') or known.get('classes')}
        palettes = [palette for palette in (known.get('palette'), stored.get('palette'))
                    if palette and len(palette) >= len(model.dataset_meta['classes'] or ())]
        model.dataset_meta['palette'] = palettes[0] if palettes else 'random'

    def data_meta(self, cfg: Config) -> Mapping[str, Any]:
        """``classes`` and ``palette`` of a config's test data, without its files."""
        for _, dataset in datasets_of(cfg, ['test_dataloader']):
            return DATASETS.build(ConfigDict(dataset, lazy_init=True, pipeline=[])).metainfo
        return {}

    def fit_to_weights(self, cfg: Config, checkpoint: Any) -> None:
        """If a config leaves the number of classes to its data, take it from a checkpoint.

        Args:
            cfg: Changed in place.
            checkpoint: Result of :func:`repvit_mm.checkpoints.read_checkpoint`.
        """

    def enable_tta(self, cfg: Config) -> None:
        """Test with the config's ``tta_model`` and ``tta_pipeline``; without, on every image and its mirror image.

        Raises:
            ConfigError: If the toolbox cannot merge the model's predictions.
        """
        if 'tta_model' not in cfg and self.tta_model is None:
            raise ConfigError(f'--tta needs a tta_model in a config with default_scope={cfg.get("default_scope")!r}')
        for _, dataset in datasets_of(cfg, ['test_dataloader']):
            dataset['pipeline'] = (copy.deepcopy(cfg.tta_pipeline) if 'tta_pipeline' in cfg
                                   else self.mirrored(dataset['pipeline']))
        cfg.model = ConfigDict(**cfg.get('tta_model', self.tta_model), module=cfg.model)

    def mirrored(self, pipeline: Sequence[Mapping]) -> list[dict]:
        """A pipeline that yields each image and its mirror image."""
        *loading, packing = copy.deepcopy(list(pipeline))
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0., 1.)]
        return [*loading, dict(type='TestTimeAug', transforms=[flips, [packing]])]

    def enable_slide(self, cfg: Config, size: int) -> None:
        """Test on squares of the image that overlap by a third, instead of the whole image.

        Args:
            cfg: Changed in place.
            size: Side of a square in pixels of the resized image.

        Raises:
            ConfigError: If the model is not a segmentor, or the squares are smaller than the backbone's largest stride.
        """
        raise ConfigError(f'--slide is for segmentors, but the config has default_scope={cfg.get("default_scope")!r}')

    def dump_predictions(self, cfg: Config, out: str) -> None:
        """Save the predictions of a test.

        Args:
            cfg: Changed in place.
            out: A ``.pkl`` file; for segmentation, a directory for label maps.

        Raises:
            ConfigError: If ``out`` does not end with .pkl or .pickle, or its folder cannot be created.
        """
        if not out.endswith(('.pkl', '.pickle')):
            raise ConfigError(f'--out {out} must end with .pkl or .pickle')
        check_folder(os.path.dirname(out) or '.', os.path.basename(out), '--out')
        cfg.test_evaluator = [*evaluators_of(cfg), dict(type=self.dump_metric, out_file_path=out)]

    def draw_predictions(self, cfg: Config, directory: str) -> None:
        """Draw the predictions of a test.

        Args:
            cfg: Changed in place.
            directory: Folder of the images.

        Raises:
            ConfigError: If the toolbox is not known, or the folder cannot be created.
        """
        if not self.drawing:
            raise ConfigError('--show-dir needs a config for mmdet, mmseg or mmpretrain; this one has '
                              f'default_scope={cfg.get("default_scope")!r}')
        from . import drawings  # noqa: F401, it registers the hooks
        hook = dict(type=self.drawing, out_dir=str(check_folder(directory, 'image.png', '--show-dir').absolute()))
        cfg.default_hooks = {**cfg.get('default_hooks', {}), 'visualization': hook}


def evaluators_of(cfg: Config, key: str = 'test_evaluator') -> list[dict]:
    """The evaluators of a config, as a list; it may have one, several or none."""
    evaluators = cfg.get(key) or []
    return [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)


def heads_in(parent: Mapping, *names: str) -> Iterator[tuple[str, int]]:
    """Name and number of classes of each head of a model's config; a head may be a list of heads."""
    for name in names:
        heads = parent.get(name) or []
        for head in [heads] if isinstance(heads, Mapping) else heads:
            if 'num_classes' in head:
                yield name, head['num_classes']
