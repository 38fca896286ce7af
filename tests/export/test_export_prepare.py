from types import SimpleNamespace

import pytest
from mmengine.config import Config

from repvit_mm.export.prepare import size_of_test
from repvit_mm.toolboxes import TOOLBOXES


@pytest.mark.parametrize('task, steps, size', [
    ('detection', [dict(type='Resize', scale=(1333, 800), keep_ratio=True)], (800, 1344)),
    ('detection', [dict(type='Resize', scale=(640, 640)), dict(type='Pad', size=(640, 640))], (640, 640)),
    ('segmentation', [dict(type='Resize', scale=(2048, 512), keep_ratio=True)], (512, 512)),
    ('segmentation', [dict(type='Resize', scale=(2048, 1024), keep_ratio=True)], (1024, 2048)),
    ('classification', [dict(type='ResizeEdge', scale=256, edge='short'), dict(type='CenterCrop', crop_size=224)],
     (224, 224)),
    ('classification', [dict(type='PackInputs')], None)])
def test_the_size_is_that_of_the_configs_test(task, steps, size):
    config = Config(dict(test_dataloader=dict(dataset=dict(type='Any', pipeline=steps))))
    toolbox = next(box for box in TOOLBOXES.values() if box.task.name == task)
    assert size_of_test(SimpleNamespace(config=config, task=toolbox.task, stride=32)) == size
