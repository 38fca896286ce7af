from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config

from repvit_mm import RepViT
from repvit_mm.errors import ExportError, UserError
from repvit_mm.export import export_model, load_images
from repvit_mm.export.prepare import size_of_test
from repvit_mm.models.inference import BACKBONE, InferenceModel
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


def test_a_backbone_takes_sizes_that_are_not_multiples_of_32(models, tmp_path):
    report = export_model(models('backbone'), 'onnx', (50, 70), tmp_path / 'model.onnx')
    assert [result.shape[2:] for result in report.comparisons[:4]] == [(13, 18), (7, 9), (4, 5), (2, 3)]


def test_a_size_that_the_model_cannot_run_on_is_one_line(tmp_path):
    def fail(*_):
        raise AssertionError('smaller than the window\nPlease pad')
    model = InferenceModel('windows', RepViT({'widths': (8,), 'depths': (1,)}, out_indices=(0,)), BACKBONE)
    model.register_forward_hook(fail)
    with pytest.raises(ExportError, match='^windows cannot run on images of 20 x 24: smaller than the window$'):
        export_model(model, 'onnx', (20, 24), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_where_maps_are_added_up_the_size_is_a_multiple_of_32(models, task, tmp_path):
    with pytest.raises(ExportError, match='50 64 must be a multiple of 32 .* the next larger one is 64 64'):
        export_model(models(task), 'onnx', (50, 64), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


def test_images_of_other_than_three_channels_are_refused(tmp_path):
    model = InferenceModel('grey', RepViT({'widths': (8,), 'depths': (1,)}, 1, out_indices=(0,)), BACKBONE)
    with pytest.raises(ExportError, match='grey takes 1 channels, and only models of colour images'):
        export_model(model, 'onnx', (32, 32), tmp_path / 'model.onnx')


def test_images_are_the_users_or_a_photograph(tmp_path):
    images = load_images((48, 64), 3)
    assert images.shape == (3, 48, 64, 3) and images.dtype == np.uint8
    assert images.std() > 30 and np.abs(np.diff(images.astype(int), axis=0)).mean() > 5
    (tmp_path / 'text.png').write_text('text')
    with pytest.raises(UserError, match='text.png is not in a supported image format'):
        load_images((48, 64), 1, [tmp_path / 'text.png'])
