"""Test of exported files with a toolbox's own loading, preprocessing and metrics."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import ExportError
from ..models.inference import normalisation_of
from ..toolboxes import toolbox_of
from .detections import Detections, detect, paste
from .files import ExportedFile
from .runtimes import open_exported


def use_exported(cfg: Config, path: str, engine: str) -> None:
    """Let a config test an exported file instead of its model with a checkpoint.

    Args:
        cfg: Changed in place.
        path: Of the file.
        engine: Runs it; a key of :data:`repvit_mm.export.runtimes.ENGINES`.
    """
    if 'data_preprocessor' in cfg:  # mmpretrain's configs have it beside the model
        cfg.model.setdefault('data_preprocessor', cfg.pop('data_preprocessor'))
    cfg.model = ConfigDict(type='ExportedModel', model=cfg.model, task=toolbox_of(cfg).task.name, path=path,
                           engine=engine)
    cfg.load_from = None


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A toolbox's model whose computation is done by an exported file.

    Args:
        model: Config of the model, which keeps its preprocessing and its postprocessing of logits.
        task: ``'classification'``, ``'segmentation'`` or ``'detection'``.
        path: Of the file.
        engine: A key of :data:`repvit_mm.export.runtimes.ENGINES`.

    Raises:
        ExportError: If the file cannot be opened, is for another task or expects another normalisation.
    """

    def __init__(self, model: Mapping[str, Any], task: str, path: str, engine: str):
        file = open_exported(path, engine)
        if file.metadata['task'] != task or (task == 'detection' and 'score_threshold' not in file.metadata):
            raise ExportError(f'{path} holds {file.metadata["description"]}; the config needs its whole model')
        module = MODELS.build(model)
        super().__init__(data_preprocessor=module.data_preprocessor)
        for key, value in normalisation_of(module.data_preprocessor)._asdict().items():
            if file.metadata[key] != (value if isinstance(value, str) else list(value)):
                raise ExportError(f'{path} has {key}={file.metadata[key]}, and the config {key}={value}: it is of '
                                  'another model')
        _replace(module, task, file)
        self.module = module

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = 'predict') -> Any:
        """The outputs of the toolbox's model; an exported file supports ``mode='predict'`` only."""
        return self.module(inputs, data_samples, mode)


def _replace(module: nn.Module, task: str, file: ExportedFile) -> None:
    """Replace the computation of a toolbox's model by a file."""
    def predict(inputs: Tensor, samples: Sequence[Any], rescale: bool = True) -> Sequence[Any]:
        images = _fitted(file, inputs).cpu()
        results = [_instances(detect(file, images[i:i + 1], sample.img_shape[:2]), sample,
                              file.metadata.get('mask_threshold')) for i, sample in enumerate(samples)]
        return module.add_pred_to_datasample(samples, results)

    if task == 'classification':
        module.extract_feat, module.head.forward = lambda inputs, *_: _logits(file, inputs), lambda logits: logits
    elif task == 'segmentation':
        module.encode_decode = lambda inputs, _: _logits(file, inputs)
    else:
        module.predict = predict


def _logits(file: ExportedFile, inputs: Tensor) -> Tensor:
    found = file.run({'image': _fitted(file, inputs).cpu().numpy()})
    if 'logits' not in found:  # Core ML on a Mac
        if 'probabilities' not in found:
            raise ExportError(f'{file.path} returns {", ".join(found)} here, and a test needs logits: run it off a Mac')
        found['logits'] = np.log(found['probabilities'])
    return torch.from_numpy(found['logits']).to(inputs.device)


def _instances(found: Detections, sample: Any, mask_threshold: float | None) -> InstanceData:
    """Detections in pixels of the original image."""
    scale = np.tile(np.array(sample.scale_factor, np.float32), 2)
    boxes = found.boxes / scale
    instances = InstanceData(bboxes=torch.from_numpy(boxes), scores=torch.from_numpy(found.scores),
                             labels=torch.from_numpy(found.labels))
    if found.masks is not None:
        height, width = sample.ori_shape[:2]
        instances.masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        areas = boxes if found.area is None else [found.area / scale] * len(boxes)
        for pasted, mask, box in zip(instances.masks, found.masks, areas, strict=True):
            values, place = paste(mask, box, height, width)
            pasted[place] = values >= mask_threshold
    return instances


def _fitted(file: ExportedFile, inputs: Tensor) -> Tensor:
    """A batch; for a detector padded with zeros at the right and the bottom to the size of the file.

    Raises:
        ExportError: If the file does not take images of this size.
    """
    task, given = file.metadata['task'], tuple(inputs.shape[2:])
    multiple = 1 if task == 'classification' else 32
    wanted = tuple(size or -(-now // multiple) * multiple for size, now in zip(file.shape[2:], given, strict=True))
    if wanted == given:
        return inputs
    if task == 'detection' and all(size >= now for size, now in zip(wanted, given, strict=True)):
        return F.pad(inputs, (0, wanted[1] - given[1], 0, wanted[0] - given[0]))
    sizes = ' x '.join(map(str, wanted)) if file.shape[2] else f'multiples of {multiple}'
    raise ExportError(f'{file.path} takes images of {sizes} pixels, and the test pipeline of the config gives '
                      f'{given[0]} x {given[1]}; ' + ('change the pipeline' if file.shape[2] is None else
                                                      'export it with --dynamic-size, or change the pipeline'))
