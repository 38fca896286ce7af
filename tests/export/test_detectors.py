import copy

import numpy as np
import pytest
import torch
from inference_models import write_config
from onnx import TensorProto, load
from onnx.checker import check_model
from onnx.shape_inference import infer_shapes

from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, export_model, onnx
from repvit_mm.export.detections import detect, paste
from repvit_mm.export.detectors import Selection, kind_of, spread_outputs
from repvit_mm.export.images import load_images, to_input
from repvit_mm.export.prepare import prepare
from repvit_mm.export.runtimes import open_exported
from repvit_mm.models.inference import build_inference_model, randomise_weights

BASES = {
    'mask_rcnn': 0,  # samples of a cell: as many as its size asks for
    'mask_rcnn_sampled': 2,
    'retinanet': ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (0, 1, 2, 3), 'neck=dict(in_channels={}, '
                  'out_channels=16), bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=5)'),
    'rtmdet': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (1, 2, 3), 'neck=dict(in_channels={}, out_channels=16), '
               'bbox_head=dict(in_channels=16, feat_channels=16, num_classes=5), test_cfg=dict(max_per_img=50)'),
    'gfl': ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', (0, 1, 2, 3), 'neck=dict(in_channels={}, out_channels=16), '
            'bbox_head=dict(in_channels=16, feat_channels=32, stacked_convs=1, num_classes=5)'),
}
WIDTHS = (8, 16, 24, 32)


def write_detector(folder, kind):
    path = folder / f'{kind}.py'
    if isinstance(BASES[kind], int):
        path.write_text(f"""
_base_ = {str(write_config(folder, 'detection'))!r}
roi = dict(roi_layer=dict(output_size=7, sampling_ratio={BASES[kind]}), out_channels=16)
model = dict(
    neck=dict(out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=roi, bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=5),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio={BASES[kind]}), out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.2, max_per_img=30)))
""")
    else:
        base, indices, parts = BASES[kind]
        path.write_text(f"""
_base_ = {base!r}
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch=dict(widths={WIDTHS}, depths=(1, 1, 2, 1)), out_indices={indices}),
    {parts.format([WIDTHS[i] for i in indices])})
""")
    return path


def spread_detector(folder, kind):
    """The tiny detector of a kind, with random weights that find objects."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # with 0, RTMDet finds too little
        model = build_inference_model(write_detector(folder, kind))
    randomise_weights(model)
    spread_outputs(model)
    return model


def by_mmdet(model, image, size):
    """Detections of mmdet with the unfused model, in an image of a size before padding."""
    from mmdet.structures import DetDataSample
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.),
                                         batch_input_shape=tuple(image.shape[2:])))
    with torch.no_grad():
        return model.model.predict(image, [sample])[0].pred_instances


@pytest.mark.parametrize('kind, name', [('mask_rcnn', 'onnx'), ('retinanet', 'onnx'), ('rtmdet', 'onnx'),
                                        ('mask_rcnn', 'openvino'), ('rtmdet', 'openvino')])
def test_the_file_finds_what_mmdet_finds_with_the_unfused_model(kind, name, detector, tmp_path):
    model = detector(kind)
    options = Options(dynamic_size=True, selection=Selection())
    report = export_model(model, name, (64, 96), tmp_path / f'model{FORMATS[name].suffix}', options)
    file = open_exported(report.path, FORMATS[name].engine)
    assert {'boxes', 'scores', 'labels'} <= {result.output for result in report.comparisons}
    # Beside the exporter's own check: another size, with an image that does not fill it.
    image = torch.nn.functional.pad(to_input(load_images((90, 130), 4)[-1:], model.normalisation), (0, 30, 0, 6))
    found, expected = detect(file, image, (90, 130)), by_mmdet(model, image, (90, 130))
    assert len(expected) > 5 and found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.boxes, expected.bboxes, atol=2e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.boxes[:, 2] <= 130).all() and (found.boxes[:, 3] <= 90).all()
    if kind == 'mask_rcnn':
        pasted = [paste(mask, box, 90, 130) >= 0.5 for mask, box in zip(found.masks, found.boxes, strict=True)]
        assert (np.stack(pasted) != expected.masks.numpy()).mean() < 1e-4


@pytest.mark.parametrize('kind, shape', [('mask_rcnn', (64, 96)), ('rtmdet', (320, 480))])
def test_in_half_precision_boxes_and_their_selection_stay_in_single_precision(kind, shape, detector, tmp_path):
    out = tmp_path / 'model.onnx'
    export_model(detector(kind), 'onnx', shape, out, Options('fp16', dynamic_size=True, selection=Selection()))
    graph = load(out)
    check_model(graph, full_check=True)  # with all types
    halves = {value.name for value in infer_shapes(graph).graph.value_info
              if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    layers = {node.op_type for node in graph.graph.node if halves & {*node.output}}
    assert 'Conv' in layers and not layers & {'TopK', 'NonMaxSuppression', 'RoiAlign', 'Exp', 'Min', 'Greater'}
    image = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    found = detect(open_exported(out, 'onnxruntime'), image, shape)
    for values in (found.boxes, found.scores):
        assert (values != values.astype(np.float16)).mean() > 0.5


@pytest.mark.parametrize('kind, threshold', [('mask_rcnn', 0.), ('mask_rcnn', 1.), ('rtmdet', 1.)])
@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_an_image_without_detections_and_one_full_of_them_run(kind, threshold, engine, detector, tmp_path):
    options = Options(selection=Selection(threshold, max_detections=7))
    onnx.write(prepare(detector(kind), (64, 64), options), tmp_path / 'model.onnx', options)
    found = detect(open_exported(tmp_path / 'model.onnx', engine), torch.zeros(1, 3, 64, 64), (64, 64))
    number = 0 if threshold else 7
    assert found.boxes.shape == (number, 4) and found.scores.shape == found.labels.shape == (number,)
    assert found.masks is None if kind != 'mask_rcnn' else found.masks.shape == (number, 28, 28)


def test_the_selection_is_an_option_and_written_down(detector, tmp_path):
    model, out = detector('mask_rcnn'), tmp_path / 'model.onnx'
    export_model(model, 'onnx', (64, 64), out, Options(selection=Selection(0.25, 0.3, 4)))
    file = open_exported(out, 'onnxruntime')
    metadata = file.facts
    assert (metadata['score_threshold'], metadata['iou_threshold'], metadata['max_detections']) == (0.25, 0.3, 4)
    assert metadata['mask_threshold'] == 0.5 and 'divide by the scale' in metadata['postprocessing']
    assert 'zeros' in metadata['preprocessing'] and metadata['mean'] == [123.675, 116.28, 103.53]
    found = detect(file, torch.randn(1, 3, 64, 64), (64, 64))
    assert 0 < len(found.scores) <= 4 and (found.scores > 0.25).all()
    assert model.model.roi_head.test_cfg.score_thr == 0.2  # the model stays as it is


def weight(whole):
    whole.fused.backbone.stages[2].blocks[0].token_mixer.bias.data += 0.01


def mask_weight(whole):
    whole.fused.model.roi_head.mask_head.conv_logits.bias.data += 0.1


def normalisation(whole):
    stem = whole.fused.backbone.stem.conv1
    stem.weight.data /= 58.


def channels(whole):
    stem = whole.fused.backbone.stem.conv1
    stem.weight.data = stem.weight.data.flip(1)


def score_threshold(whole):
    whole.fused.model.roi_head.test_cfg.score_thr = 0.3


def suppression(whole):
    whole.fused.model.roi_head.test_cfg.nms.iou_threshold = 0.45


def regions(whole):
    whole.fused.model.rpn_head.test_cfg.max_per_img = 45


def borders(whole):
    forward = whole.forward
    whole.forward = lambda image, size: forward(image, torch.tensor(image.shape[2:]).float() + size * 0)


@pytest.mark.parametrize('mutation', [weight, mask_weight, normalisation, channels, score_threshold, suppression,
                                      regions, borders])
def test_a_file_that_finds_something_else_is_refused_and_leaves_the_old_one(mutation, detector, tmp_path, monkeypatch):
    out = tmp_path / 'model.onnx'
    out.write_text('the old one')

    def save_another(whole, *args, **kwargs):
        other = copy.deepcopy(whole)
        mutation(other)
        save_graph(other, *args, **kwargs)
    save_graph = onnx.save_graph
    monkeypatch.setattr(onnx, 'save_graph', save_another)
    with pytest.raises(ExportError, match='differs? from PyTorch'):
        export_model(detector('mask_rcnn'), 'onnx', (64, 96), out, Options(selection=Selection()))
    assert out.read_text() == 'the old one' and [path.name for path in tmp_path.iterdir()] == ['model.onnx']


def test_a_detector_that_finds_nothing_is_not_proven(detector, tmp_path):
    with pytest.raises(ExportError, match='PyTorch finds no object .* more than 1; give --pictures .* --score-thr'):
        export_model(detector('rtmdet'), 'onnx', (64, 96), tmp_path / 'model.onnx', Options(selection=Selection(1.)))
    assert not list(tmp_path.iterdir())


def test_another_suppression_is_named(detector):
    model = copy.deepcopy(detector('mask_rcnn'))
    model.model.roi_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ExportError, match='mask_rcnn has MaskRCNN with StandardRoIHead with the suppression .*soft_nms'
                                          '.* cannot be exported; supported are .* --pyramid'):
        kind_of(model)


def test_wrong_sizes_and_other_tasks_are_refused(detector, models, tmp_path):
    with pytest.raises(ExportError, match='60 96 must be a multiple of 32'):
        export_model(detector('retinanet'), 'onnx', (60, 96), tmp_path / 'model.onnx', Options(selection=Selection()))
    with pytest.raises(ExportError, match='is not a detector'):
        export_model(models('classification'), 'onnx', (64, 96), tmp_path / 'model.onnx',
                     Options(selection=Selection()))


def test_a_mask_is_pasted_between_the_centres_of_its_cells():
    assert paste(np.ones((4, 4)), (2, 1, 6, 3), 5, 8).round(6).tolist() == [
        [0] * 8, *[[0, 0, 1, 1, 1, 1, 0, 0]] * 2, [0] * 8, [0] * 8]
    halves = paste(np.array([[0., 1.], [0., 1.]]), (0, 0, 4, 4), 4, 4)
    np.testing.assert_allclose(halves[1], [0, 0.25, 0.75, 0.75 + 0.0], atol=0.26)
    assert not paste(np.ones((2, 2)), (3, 3, 3, 3), 4, 4).any()
