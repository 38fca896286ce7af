"""Writing pictures while a segmentor is tested."""
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .pictures import draw_segmentation


@HOOKS.register_module()
class SegmentationPictures(Hook):
    """Write ground truth and prediction over the photo, with a legend of the classes.

    mmseg's own hook writes the name of each class somewhere into its region; a legend leaves the regions visible. Every
    image of a test is drawn, under its name below the directory of the images.

    Args:
        out_dir: Where the pictures go.
        opacity: See :func:`repvit_mm.segmentation.draw_segmentation`.
    """

    def __init__(self, out_dir: str, opacity: float = 0.6):
        self.out_dir, self.opacity = Path(out_dir), opacity

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        """Draw every image of a batch."""
        for sample in outputs:
            self._write(sample, runner.test_dataloader.dataset)

    def _write(self, sample: Any, dataset: Any) -> None:
        photo = cv2.imdecode(np.frombuffer(fileio.get(sample.img_path), np.uint8), cv2.IMREAD_COLOR)
        maps = {'ground truth': sample.gt_sem_seg} if 'gt_sem_seg' in sample else {}
        maps['prediction'] = sample.pred_sem_seg
        picture = draw_segmentation(
            cv2.cvtColor(photo, cv2.COLOR_BGR2RGB),
            {caption: labels.data.squeeze(0).cpu().numpy() for caption, labels in maps.items()},
            dataset.metainfo['classes'], dataset.metainfo['palette'], self.opacity)
        path = self.out_dir / Path(_name(sample.img_path, dataset)).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        fileio.put(cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes(), str(path))


def _name(img_path: str, dataset: Any) -> str:
    """Path of an image below the data set's directory of images: names may occur in several of its folders."""
    prefix = getattr(dataset, 'data_prefix', None)
    folder = prefix.get('img_path') if isinstance(prefix, Mapping) else None
    name = os.path.relpath(img_path, folder) if folder else ''
    return name if name and not name.startswith(os.pardir) else os.path.basename(img_path)
