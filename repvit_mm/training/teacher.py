"""The teacher of a distilled classifier."""
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..checkpoints import load_checkpoint, read_checkpoint, tensors_of
from ..errors import CheckpointError, ConfigError, first_line
from ..network.backbone import RepViT


class Teacher:
    """A trained classifier, built when it is first needed.

    It is not an ``nn.Module``, and copying returns the same object, so the student does not save, copy, count, average
    or train it.

    Args:
        model: The name of a timm model, or the file of an mmpretrain config (``*.py``).
        checkpoint: File of its weights. By default, a timm model's published weights are downloaded; a model of
            mmpretrain needs one.
    """

    def __init__(self, model: str, checkpoint: str | None = None):
        self.name, self.checkpoint = model, checkpoint
        self.model: nn.Module | None = None
        #: Mean, standard deviation, and whether channels are RGB; None if the same as the student's.
        self.normalisation: tuple[Sequence[float], Sequence[float], bool] | None = None

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return self

    def build(self, num_classes: int) -> None:
        """Build it and load its weights, unless that is already done.

        Raises:
            CheckpointError: If its weights cannot be downloaded or read, or are not for this model.
            ConfigError: If it cannot be built, or has another number of classes.
        """
        if self.model is not None:
            return
        model = self._build_mmpretrain() if self.name.endswith('.py') else self._build_timm(num_classes)
        self.model = model.eval().requires_grad_(False)
        print_log(f'The teacher is {self.name}, weights from {self.checkpoint or "its publisher"}', 'current')

    def _build_timm(self, num_classes: int) -> nn.Module:
        try:
            import timm
        except ImportError as error:
            raise ConfigError(f'teacher {self.name} needs timm; run: pip install timm') from error
        if not timm.is_model(self.name):
            raise ConfigError(f'teacher {self.name}: expected a model of timm or a config file (*.py)')
        if self.checkpoint:
            model = timm.create_model(self.name, num_classes=num_classes)
            self._load(model)
        else:
            try:
                model = timm.create_model(self.name, pretrained=True)
            except Exception as error:  # downloads can raise anything
                raise CheckpointError(f'teacher {self.name}: its weights cannot be downloaded ({first_line(error)}); '
                                      'give their file as model.teacher.checkpoint, or use a config without a '
                                      'teacher') from error
        cfg = model.pretrained_cfg
        mean, std = (tuple(255 * value for value in cfg[key]) for key in ('mean', 'std'))
        self.normalisation = mean, std, True
        return model

    def _build_mmpretrain(self) -> nn.Module:
        if not Path(self.name).is_file():
            raise ConfigError(f'teacher {self.name}: there is no such config file')
        loaded = Config.fromfile(self.name)
        config = dict(loaded.model)
        preprocessor = {**(loaded.get('data_preprocessor') or {}), **(config.pop('data_preprocessor', None) or {})}
        for key in ('train_cfg', 'teacher'):  # settings of its own training
            config.pop(key, None)
        if not self.checkpoint:
            raise CheckpointError(f'teacher {self.name} has no weights; give their file as model.teacher.checkpoint')
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(config)
        self._load(model)
        if preprocessor.get('mean') is not None:
            self.normalisation = preprocessor['mean'], preprocessor['std'], preprocessor.get('to_rgb', False)
        return model

    def _load(self, model: nn.Module) -> None:
        try:
            if any(isinstance(module, RepViT) for module in model.eval().modules()):
                load_checkpoint(model, self.checkpoint)  # of any published format
            else:
                model.load_state_dict(tensors_of(read_checkpoint(self.checkpoint), self.checkpoint))
        except (CheckpointError, RuntimeError) as error:
            reason = ' '.join(str(error).split())[:300]
            raise CheckpointError(f'teacher {self.name}: {self.checkpoint} cannot be loaded; it may be for another '
                                  f'model or number of classes: {reason}') from error

    @torch.no_grad()
    def scores(self, inputs: Tensor, num_classes: int, preprocessor: nn.Module) -> Tensor:
        """Compute the teacher's scores before the softmax, (N, num_classes).

        Args:
            inputs: (N, 3, H, W), normalised for the student.
            num_classes: Number of classes of the student.
            preprocessor: The student's preprocessor; its normalisation is replaced by the teacher's.

        Raises:
            ConfigError: If it has another number of classes.
        """
        self.build(num_classes)
        parameter = next(self.model.parameters(), None)
        if parameter is not None and parameter.device != inputs.device:
            self.model.to(inputs.device)
        scores = self.model(self._renormalise(inputs, preprocessor))
        if scores.shape[1] != num_classes:
            raise ConfigError(f'teacher {self.name} has {scores.shape[1]} classes, but the model {num_classes}: '
                              'both must be trained on the same classes')
        return scores

    def _renormalise(self, inputs: Tensor, preprocessor: nn.Module) -> Tensor:
        if self.normalisation is None:
            return inputs
        mean, std = (inputs.new_tensor(values).view(-1, 1, 1) for values in self.normalisation[:2])
        flip = preprocessor.to_rgb != self.normalisation[2]
        if hasattr(preprocessor, 'mean'):
            if not flip and torch.allclose(preprocessor.mean, mean) and torch.allclose(preprocessor.std, std):
                return inputs
            inputs = inputs * preprocessor.std + preprocessor.mean
        return ((inputs.flip(1) if flip else inputs) - mean) / std
