"""Accuracy of an int8 file: measured on the config's test data, or without them as agreement with PyTorch on images."""
import contextlib
import copy
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..engine.prepare import prepare
from ..engine.runner import Runner
from ..errors import ExportError
from ..models.inference import InferenceModel
from ..toolboxes.datasets import datasets_of, expected_paths
from .detections import Detections, detect, detect_with_mmdet
from .detectors import WholeDetector
from .files import ExportedFile
from .prepare import Options, Subject
from .report import Verdict
from .testing import use_exported

#: Metric as a toolbox reports it -> its name, and the points in one of its units.
METRICS = {'accuracy/top1': ('top-1', 1), 'mIoU': ('mIoU', 1), 'coco/bbox_mAP': ('box AP', 100),
           'coco/segm_mAP': ('mask AP', 100), 'pascal_voc/mAP': ('mAP', 100)}
#: Points that may be lost. More decisions change than accuracy falls: wrong ones may become right.
LIMITS = {'accuracy': 1., 'agreement': 5.}
#: Smallest IoU of two boxes of the same object.
SAME_OBJECT = 0.5


def judge(subject: Subject, file: ExportedFile, engine_name: str, options: Options) -> Verdict:
    """Measure the accuracy of a file.

    Args:
        subject: The model that it was exported from.
        file: To judge.
        engine_name: Runs it; a key of :data:`repvit_mm.export.runtimes.ENGINES`.
        options: Of the export.

    Raises:
        DatasetError: If the test data are missing.
        ExportError: If the file loses more than it may.
    """
    quantisation, config = options.quantisation, subject.fused.config
    cfg = test_config(config, quantisation.data_root)
    if cfg is None:
        paths = quantisation.images.held_out
        share = agreement(subject.model, file, map(subject.load, paths))
        verdict = Verdict(f'with PyTorch on {len(paths)} held-out images, as the test data of {config.filename} are '
                          'missing', {'agreement': 100.}, {'agreement': 100 * share}, LIMITS['agreement'])
    else:
        pytorch, number = accuracy(cfg, subject.fused.model)
        use_exported(cfg, str(file.path), engine_name)
        verdict = Verdict(f'on the {number} images of test_dataloader', pytorch, accuracy(cfg)[0],
                          LIMITS['accuracy'])
    if verdict.lost > verdict.limit and not quantisation.allow_loss:
        raise ExportError(f'{file.path.name} in int8 loses {verdict.lost:.1f} points, more than {verdict.limit:g}: '
                          f'{verdict}; --allow-loss writes it nevertheless')
    return verdict


def test_config(config: Config, data_root: str | None) -> Config | None:
    """A config that is ready for a test; None if its test data are missing."""
    cfg = copy.deepcopy(config)
    if cfg.get('test_evaluator') is None:
        return None
    paths = [path for _, dataset in datasets_of(cfg, ['test_dataloader']) for path in expected_paths(dataset)]
    if data_root is None and not all(map(os.path.exists, paths)):
        return None
    cfg.load_from, cfg.resume, cfg.log_level = None, False, 'ERROR'
    cfg.visualizer = None  # a config's own is one for all runs of a process, and may write elsewhere
    settings = Namespace(config=cfg.filename, launcher='none', work_dir='.', seed=None, data_root=data_root)
    prepare(cfg, settings, 'test')
    # Exporters start threads (JAX in LiteRT's), and a worker forked then may wait for ever.
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    return cfg


def accuracy(cfg: Config, model: nn.Module | None = None) -> tuple[dict[str, float], int]:
    """Test a model.

    Args:
        cfg: From :func:`test_config`.
        model: Replaces the config's.

    Returns:
        Metrics of :data:`METRICS`, in points, and the number of images.

    Raises:
        ExportError: If the config's evaluators report none of them.
    """
    with (tempfile.TemporaryDirectory() as cfg.work_dir, open(os.devnull, 'w') as nowhere,
          contextlib.redirect_stdout(nowhere)):  # pycocotools prints
        runner = Runner.from_cfg(cfg)
        if model is not None:
            runner.model = model
        found = runner.test()
    metrics = {METRICS[key][0]: METRICS[key][1] * float(value) for key, value in found.items() if key in METRICS}
    if not metrics:
        raise ExportError(f'{cfg.filename} reports {", ".join(found)}, and an int8 file is judged by '
                          f'{", ".join(METRICS)}')
    return metrics, len(runner.test_dataloader.dataset)


@torch.no_grad()
def agreement(subject: InferenceModel | WholeDetector, file: ExportedFile,
              images: Iterable[Mapping[str, np.ndarray]]) -> float:
    """The share of decisions common to a file and PyTorch, 0 to 1.

    A decision is the class of an image or pixel, or a detection: weighted by its score, with the same label and an
    overlap of at least :data:`SAME_OBJECT`.

    Args:
        subject: In its fused form.
        file: Exported from it.
        images: Inputs of the file.
    """
    same, all_ = 0., 0.
    for inputs in images:
        if isinstance(subject, WholeDetector):
            size = [int(length) for length in inputs.get('size', inputs['image'].shape[2:])]
            image = torch.from_numpy(inputs['image'])
            ours, theirs = detect(file, image, size), detect_with_mmdet(subject, image, size)
            same += matched(ours, theirs) + matched(theirs, ours)
            all_ += float(ours.scores.sum() + theirs.scores.sum())
        else:
            (found,), (expected,) = file.run(inputs).values(), subject(torch.from_numpy(inputs['image']))
            equal = torch.from_numpy(found).argmax(1) == expected.argmax(1)
            same, all_ = same + equal.sum().item(), all_ + equal.numel()
    return same / all_ if all_ else 1.


def matched(these: Detections, those: Detections) -> float:
    """Sum of the scores of these that are also among those."""
    from torchvision.ops import box_iou
    overlap = box_iou(torch.from_numpy(these.boxes), torch.from_numpy(those.boxes)).numpy()
    same = (overlap >= SAME_OBJECT) & (these.labels[:, None] == those.labels[None])
    return float(these.scores[same.any(1)].sum())
