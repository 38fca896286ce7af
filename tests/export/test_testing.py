"""Exported files in the place of the models that they come from."""
import copy

import pytest
import torch
from inference_models import tiny_model
from mmengine.registry import MODELS, DefaultScope
from small_detectors import spread_detector
from test_export_formats import marked

from repvit_mm.engine.config import load_config
from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.testing import use_exported


def tiny(folder, task):
    """Config and model of a task."""
    if task in ('mask_rcnn', 'rtmdet_ins'):
        return folder / f'{task}.py', spread_detector(folder, task)
    return folder / f'tiny_{task}.py', tiny_model(folder, task)


def batch(task, shape=(64, 90)):
    """Two random pictures, as a toolbox's pipeline gives them."""
    pixels = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0)).byte()
    meta = dict(img_shape=shape, ori_shape=(shape[0] // 2, shape[1] // 2), scale_factor=(2., 2.), pad_shape=shape)
    if task in ('mask_rcnn', 'rtmdet_ins'):
        from mmdet.structures import DetDataSample as Sample
    elif task == 'segmentation':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmpretrain.structures import DataSample as Sample
    return dict(inputs=list(pixels), data_samples=[Sample(metainfo=dict(meta)) for _ in range(2)])


def exported_model(config, path, engine):
    cfg = load_config(config)
    use_exported(cfg, str(path), engine)
    assert cfg.load_from is None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model).eval()


@pytest.mark.slow
@pytest.mark.parametrize('name, task', [
    *(('onnx', task) for task in ('classification', 'segmentation', 'mask_rcnn', 'rtmdet_ins')),
    ('coreml', 'classification'), ('coreml', 'segmentation'),
    *(marked(name, 'classification') for name in ('ncnn', 'executorch', 'litert'))])
def test_a_file_gives_the_predictions_of_its_model(name, task, tmp_path):
    config, model = tiny(tmp_path, task)
    detects, path = task in ('mask_rcnn', 'rtmdet_ins'), tmp_path / f'model{FORMATS[name].suffix}'
    shape = (64, 90) if task == 'mask_rcnn' else (64, 96)  # is padded, in mmdet too
    export_model(model, name, (64, 96), path, Options('fp32', selection=Selection() if detects else None))
    for engine in ('onnxruntime', 'openvino') if name == 'onnx' else (name,):
        with torch.no_grad():
            found, expected = (one.test_step(copy.deepcopy(batch(task, shape)))
                               for one in (exported_model(config, path, engine), model.model))
        for ours, theirs in zip(found, expected, strict=True):
            assert_alike(task, ours, theirs)


def assert_alike(task, ours, theirs):
    if task == 'classification':
        torch.testing.assert_close(ours.pred_score, theirs.pred_score, rtol=1e-4, atol=1e-5)
        assert torch.equal(ours.pred_label, theirs.pred_label)
    elif task == 'segmentation':
        assert ours.pred_sem_seg.data.shape == (1, 32, 48)
        assert (ours.pred_sem_seg.data == theirs.pred_sem_seg.data).float().mean() > 0.999
    else:
        ours, theirs = ours.pred_instances, theirs.pred_instances
        assert len(theirs) > 5 and torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        assert ours.masks.shape == theirs.masks.shape and (ours.masks == theirs.masks).float().mean() > (
            0.99 if task == 'rtmdet_ins' else 0.9999)  # mmdet scales the former twice


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    folder = tmp_path_factory.mktemp('segmentor')
    config, model = tiny(folder, 'segmentation')
    export_model(model, 'onnx', (64, 96), folder / 'model.onnx')
    return config, folder / 'model.onnx'


def test_a_size_that_the_file_does_not_take_is_one_line(segmentor):
    exported = exported_model(*segmentor, 'onnxruntime')
    with pytest.raises(ExportError, match='images of 64 x 96 pixels, .* gives 96 x 96; export it with --dynamic-size'):
        exported.test_step(batch('segmentation', (96, 96)))


def test_a_file_of_another_model_is_refused(segmentor, models, tmp_path):
    config, path = segmentor
    pyramid = tmp_path / 'pyramid.onnx'
    export_model(models('detection'), 'onnx', (64, 64), pyramid)
    for file, message in ((pyramid, 'pyramid.onnx holds RepViT .*, backbone and neck; .* needs its whole model'),
                          (tmp_path / 'absent.onnx', 'there is no file .*absent.onnx'),
                          (config, 'must end in .onnx for onnxruntime'),
                          (tmp_path / 'text.onnx', 'onnxruntime cannot read .*text.onnx')):
        (tmp_path / 'text.onnx').write_text('text')
        with pytest.raises(ExportError, match=message):
            exported_model(config, file, 'onnxruntime')
    other = tmp_path / 'other.py'
    other.write_text(f'_base_ = {str(config)!r}\nmodel = dict(data_preprocessor=dict(mean=[1., 2., 3.]))\n')
    with pytest.raises(ExportError, match=r'has mean=\[123.675, .*, and the config mean=\(1.0, 2.0, 3.0\)'):
        exported_model(other, path, 'onnxruntime')
