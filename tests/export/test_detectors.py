"""Whole detectors, with shapes that follow the image and with fixed ones: their form, and the files that hold it."""
import copy
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, load
from onnx.checker import check_model
from onnx.shape_inference import infer_shapes
from small_detectors import by_mmdet, mutate, write_detector
from test_export_formats import marked
from torchvision.ops import batched_nms, roi_align

from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, detections, export_model, onnx, steps
from repvit_mm.export.detections import detect, prove_detections
from repvit_mm.export.detectors import kind_of
from repvit_mm.export.files import ExportedFile
from repvit_mm.export.images import load_inputs
from repvit_mm.export.prepare import prepare
from repvit_mm.export.report import BOUNDS
from repvit_mm.export.runtimes import open_exported
from repvit_mm.models.inference import build_inference_model

SHAPE = (64, 96)
WHOLE = Options(selection=Selection())


def in_torch(whole):
    """A detector that runs as a file."""
    @torch.no_grad()
    def run(inputs):
        values = [torch.from_numpy(inputs[name]) for name in whole.example(SHAPE)]
        return {name: value.numpy() for name, value in zip(whole.output_names, whole(*values), strict=True)}
    return ExportedFile(SimpleNamespace(name='file'), run, (1, 3, *SHAPE), whole.metadata(SHAPE, False))


#: Kind, format, and whether the file takes several sizes, and images that do not fill them.
FILES = [
    *((kind, 'onnx', True) for kind in ('mask_rcnn', 'retinanet', 'rtmdet_ins')), ('mask_rcnn', 'openvino', True),
    *((kind, 'onnx', False) for kind in ('carafe', 'faster_rcnn', 'detr')), ('yolox', 'openvino', False),
    *((kind, name, False) for kind in ('rtmdet_ins', 'mask_rcnn_sampled') for name in ('litert', 'executorch')),
    *(pytest.param(*case, False, marks=pytest.mark.slow) for case in (
        ('cascade', 'onnx'), ('fcos', 'onnx'), ('gfl', 'onnx'), ('gfl', 'coreml'), ('vfnet', 'onnx'),
        ('vfnet', 'coreml'), ('ssd', 'onnx'), ('deformable', 'onnx'), ('dino', 'onnx'), ('yolox', 'coreml'),
        ('mask_rcnn_sampled', 'coreml')))]


@pytest.mark.slow
@pytest.mark.parametrize('kind, name, dynamic', FILES)
def test_the_file_finds_what_mmdet_finds_with_the_unfused_model(kind, name, dynamic, detector, tmp_path):
    if not all(map(find_spec, FORMATS[name].packages)):
        pytest.skip(f'needs {FORMATS[name].packages}: make check-devices')
    model = detector(kind)
    report = export_model(model, name, SHAPE, tmp_path / f'model{FORMATS[name].suffix}', Options(
        'fp32', dynamic_size=dynamic, selection=Selection(max_detections=20)))
    assert {'boxes', 'scores', 'labels'} <= {result.output for result in report.comparisons}
    assert not report.operations['BatchNormalization'] and not report.operations['batch_norm']
    file = open_exported(report.path, FORMATS[name].engine)
    # Beside the exporter's own check: another image, and where that is possible another size that it does not fill.
    size, padding = ((90, 130), (0, 30, 0, 6)) if dynamic else (SHAPE, (0, 0, 0, 0))
    image = torch.nn.functional.pad(load_inputs(size, 4, model.normalisation)[-1:], padding)
    found, expected = detect(file, image, size), by_mmdet(model, image, size)[:20]
    assert len(expected) > 5 and found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.boxes, expected.bboxes.minimum(torch.tensor(size[::-1] * 2)), atol=2e-2)
    assert file.metadata['max_detections'] == 20
    assert ('are empty' in file.metadata['postprocessing']) == (FORMATS[name].fixed or kind in (
        'detr', 'deformable', 'dino'))


@pytest.mark.parametrize('kind', ['retinanet', 'rtmdet_ins', 'mask_rcnn_sampled'])
def test_the_form_of_fixed_shapes_finds_what_mmdet_finds(kind, detector):
    subject = prepare(detector(kind), SHAPE, Options(selection=Selection(max_detections=40)), True)
    results = prove_detections(in_torch(subject.model), subject.model, SHAPE, BOUNDS['fp32'])
    assert results[0].output == 'labels' and results[0].shape[0] > 40
    with torch.no_grad():
        assert {len(values) for values in subject.model(*subject.inputs.values())} == {40}


@pytest.mark.parametrize('kind', ['rtmdet', 'yolox'])  # normalised, and pixels as they are
def test_the_noise_of_the_proof_is_of_pixels(kind, detector, monkeypatch):
    whole, images, run = prepare(detector(kind), SHAPE, WHOLE).model, [], detections.detect_with_mmdet
    monkeypatch.setattr(detections, 'detect_with_mmdet',
                        lambda whole, image, size: images.append(image) or run(whole, image, size))
    prove_detections(in_torch(whole), whole, SHAPE, BOUNDS['fp32'])
    noise = (images[1] - images[0]) * torch.tensor(whole.fused.normalisation.std)[:, None, None]
    assert noise.std().item() == pytest.approx(BOUNDS['fp32'].noise, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize('kind, shape', [('mask_rcnn', SHAPE), ('rtmdet', (320, 480))])
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


@pytest.mark.slow
def test_a_core_ml_package_in_half_precision_is_small_and_exact(detector, tmp_path):
    model = detector('rtmdet')
    report = export_model(model, 'coreml', SHAPE, tmp_path / 'model.mlpackage',
                          Options('fp16', selection=Selection(max_detections=20)))
    assert report.size < 600_000  # no matrix of all pairs of boxes is in it
    assert {result.output for result in report.comparisons} == {'boxes', 'scores', 'labels'}
    image = load_inputs(SHAPE, 4, model.normalisation)[-1:]
    found, expected = detect(open_exported(report.path, 'coreml'), image, SHAPE), by_mmdet(model, image, SHAPE)
    assert found.scores[0] == pytest.approx(float(expected.scores[0]), abs=BOUNDS['fp16'].scores)


@pytest.mark.slow
@pytest.mark.parametrize('kind, threshold', [
    ('mask_rcnn', 0.), ('mask_rcnn', 1.), ('carafe', 1.), ('rtmdet_ins', 0.), ('rtmdet_ins', 1.)])
def test_an_image_without_detections_and_one_full_of_them_run(kind, threshold, detector, tmp_path):
    options = Options(selection=Selection(threshold, max_detections=7))
    onnx.write(prepare(detector(kind), (64, 64), options), tmp_path / 'model.onnx', options)
    for engine in ('onnxruntime', 'openvino'):
        found = detect(open_exported(tmp_path / 'model.onnx', engine), torch.zeros(1, 3, 64, 64), (64, 64))
        number = 0 if threshold else 7
        assert found.boxes.shape == (number, 4) and found.scores.shape == found.labels.shape == (number,)
        assert found.masks.shape == (number, *((8, 8) if kind == 'rtmdet_ins' else (28, 28)))


def test_the_selection_is_an_option_and_written_down(detector):
    model = detector('mask_rcnn')
    subject = prepare(model, (64, 64), Options(selection=Selection(0.25, 0.3, 4)))
    metadata = subject.metadata
    assert (metadata['score_threshold'], metadata['iou_threshold'], metadata['max_detections']) == (0.25, 0.3, 4)
    assert metadata['mask_threshold'] == 0.5 and 'divide by the scale' in metadata['postprocessing']
    assert 'zeros' in metadata['preprocessing'] and metadata['mean'] == [123.675, 116.28, 103.53]
    found = detect(in_torch(subject.model), torch.randn(1, 3, 64, 64), (64, 64))
    assert 0 < len(found.scores) <= 4 and (found.scores > 0.25).all()
    assert model.model.roi_head.test_cfg.score_thr == 0.2  # the model stays as it is


HEAD, STEM = 'fused.model.roi_head', 'fused.backbone.stem.conv1.weight'
#: Whether shapes are fixed, what is changed, and how.
MUTATIONS = [
    (False, 'fused.backbone.stages.2.blocks.0.token_mixer.bias', lambda bias: bias + 0.01),
    (False, f'{HEAD}.mask_head.conv_logits.bias', lambda bias: bias + 0.1),
    (False, STEM, lambda weight: weight / 58),  # another normalisation
    (False, STEM, lambda weight: weight.flip(1)),  # of the channels
    (False, f'{HEAD}.test_cfg.score_thr', lambda _: 0.3),
    *((fixed, f'{HEAD}.test_cfg.nms.iou_threshold', lambda _: 0.45) for fixed in (False, True)),
    *((fixed, 'fused.model.rpn_head.test_cfg.max_per_img', lambda _: 45) for fixed in (False, True)),
    (False, 'forward', lambda forward: lambda image, size: forward(image, torch.tensor([64., 96.]))),  # borders
    (True, 'steps.ROUNDS', lambda _: 0),
    (True, f'{HEAD}.bbox_roi_extractor.roi_layers.0.spatial_scale', lambda scale: 1.02 * scale),
    (True, f'{HEAD}.mask_roi_extractor.roi_layers.0.sampling_ratio', lambda _: 1),
]


@pytest.mark.parametrize('fixed, path, change', MUTATIONS)
def test_another_computation_is_noticed(fixed, path, change, detector):
    whole = prepare(detector('mask_rcnn_sampled'), SHAPE, WHOLE, fixed).model
    other = copy.deepcopy(whole)
    mutate(other, path, change)
    with pytest.raises(ExportError, match='differs? from PyTorch'):
        prove_detections(in_torch(other), whole, SHAPE, BOUNDS['fp32'])


def test_other_masks_of_the_image_are_noticed(detector):
    whole = prepare(detector('rtmdet_ins'), SHAPE, WHOLE).model
    other = copy.deepcopy(whole)
    mutate(other, 'fused.model.bbox_head.test_cfg.mask_thr_binary', lambda _: 0.6)
    with pytest.raises(ExportError, match="masks differ from PyTorch's by"):
        prove_detections(in_torch(other), whole, SHAPE, BOUNDS['fp32'])


def test_a_detector_that_finds_nothing_is_not_proven(detector, tmp_path):
    with pytest.raises(ExportError, match='PyTorch finds no object .* more than 1; give --pictures .* --score-thr'):
        export_model(detector('rtmdet'), 'onnx', SHAPE, tmp_path / 'model.onnx', Options(selection=Selection(1.)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('spread', [5, 30, 200])  # from one heap of boxes to hardly any that overlap
def test_suppression_keeps_what_torchvision_keeps(spread):
    generator = torch.Generator().manual_seed(spread)
    corners = spread * torch.rand(600, 2, generator=generator)
    boxes = torch.cat([corners, corners + 5 + 25 * torch.rand(600, 2, generator=generator)], 1)
    scores, labels = torch.rand(600, generator=generator), torch.randint(0, 3, (600,), generator=generator)
    found = steps.FixedSteps(SHAPE).suppress(boxes, scores, labels, 0.5, 120)
    kept = batched_nms(boxes, scores, labels, 0.5)[:120]
    number = len(kept)
    assert number > 20 and (found[1][number:] == 0).all() and found[0].shape == (120, 4)
    for ours, theirs in zip(found, (boxes[kept], scores[kept], labels[kept]), strict=True):
        assert torch.equal(ours[:number], theirs)


@pytest.mark.parametrize('samples', [1, 2, 3])
def test_regions_are_pooled_as_torchvision_pools_them(samples):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 4, 12 // times, 20 // times, generator=generator) for times in (1, 2, 4)]
    scales = [1 / 8, 1 / 16, 1 / 32]
    corners = torch.rand(50, 2, 2, generator=generator) * torch.tensor([160., 96.])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    boxes[0] = torch.tensor([0., 0., 160., 96.])
    layers = [SimpleNamespace(output_size=(7, 5), spatial_scale=scale, sampling_ratio=samples) for scale in scales]
    pooled = steps.FixedSteps(SHAPE).pool(SimpleNamespace(roi_layers=layers, finest_scale=30), maps, boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    for features, scale, here in zip(maps, scales, (sides < 60, (sides >= 60) & (sides < 120), sides >= 120),
                                     strict=True):
        assert here.any()
        expected = roi_align(features, [boxes[here]], (7, 5), scale, samples, aligned=True)
        torch.testing.assert_close(pooled[here], expected, rtol=1e-4, atol=1e-4)


def test_unsupported_parts_are_named(detector, models, tmp_path):
    model = copy.deepcopy(detector('mask_rcnn'))
    model.model.roi_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ExportError, match='mask_rcnn has MaskRCNN with StandardRoIHead with the suppression .*soft_nms'
                                          '.* cannot be exported; supported are .* --pyramid'):
        kind_of(model)
    with pytest.raises(ExportError, match='centernet has CenterNet with CenterNetHead, which cannot be exported; '
                                          'supported are Faster .*RetinaNet.*GFL; YOLOX; DETR'):
        kind_of(build_inference_model(write_detector(tmp_path, 'centernet')))
    for other, name, options, message in (
            (models('classification'), 'onnx', WHOLE, 'is not a detector'),
            (detector('rtmdet'), 'coreml', WHOLE._replace(weights='int8'), 'has one size, and weights as they are'),
            (detector('rtmdet'), 'coreml', WHOLE._replace(more_shapes=[SHAPE]), 'has one size, and weights as')):
        with pytest.raises(ExportError, match=message):
            export_model(other, name, SHAPE, tmp_path / f'model{FORMATS[name].suffix}', options)


def test_an_image_with_fewer_places_than_queries_is_one_line(detector, tmp_path):
    model = copy.deepcopy(detector('dino'))
    model.model.num_queries = 200  # of 128 places
    with pytest.raises(ExportError, match='dino cannot run on images of 64 x 96: selected index k out of range'):
        export_model(model, 'onnx', SHAPE, tmp_path / 'model.onnx', WHOLE)


@pytest.mark.parametrize('name', [marked('coreml'), marked('litert'), marked('executorch')])
def test_adaptive_sampling_is_rejected_with_the_setting_to_change(name, detector, tmp_path):
    with pytest.raises(ExportError, match='mask_rcnn takes as many samples .* roi_layer.sampling_ratio .*--pyramid'):
        export_model(detector('mask_rcnn'), name, SHAPE, tmp_path / f'model{FORMATS[name].suffix}', WHOLE)
