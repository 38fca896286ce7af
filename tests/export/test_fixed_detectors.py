"""Whole detectors of fixed shapes: the form, and the files of the formats that hold it."""
import copy
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_detectors import by_mmdet, channels, regions, score_threshold, suppression, weight
from test_export_formats import marked
from torchvision.ops import batched_nms, roi_align

from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, export_model, steps
from repvit_mm.export.detections import detect, prove_detections
from repvit_mm.export.files import ExportedFile
from repvit_mm.export.formats import why_no_detections
from repvit_mm.export.images import load_inputs
from repvit_mm.export.prepare import prepare
from repvit_mm.export.report import BOUNDS
from repvit_mm.export.runtimes import open_exported

SHAPE = (64, 96)


def fixed(model, selection=Selection()):  # noqa: B008, it is immutable
    return prepare(model, SHAPE, Options(selection=selection), True)


def photograph(model):
    """Other than those of the proof."""
    return load_inputs(SHAPE, 4, model.normalisation)[-1:]


def in_torch(whole):
    """A detector that runs as a file."""
    @torch.no_grad()
    def run(inputs):
        outputs = whole(torch.from_numpy(inputs['image']))
        return {name: value.numpy() for name, value in zip(whole.output_names, outputs, strict=True)}
    return ExportedFile(SimpleNamespace(name='file'), run, (1, 3, *SHAPE), {})


@pytest.mark.parametrize('kind', ['retinanet', 'rtmdet', 'mask_rcnn_sampled'])
def test_the_form_finds_what_mmdet_finds(kind, detector):
    subject = fixed(detector(kind), Selection(max_detections=40))
    results = prove_detections(in_torch(subject.model), subject.model, SHAPE, BOUNDS['fp32'])
    assert results[0].output == 'labels' and results[0].shape[0] > 40
    with torch.no_grad():
        assert {len(values) for values in subject.model(*subject.inputs.values())} == {40}


@pytest.mark.parametrize('spread', [5, 30, 200])  # from one heap of boxes to hardly any that overlap
def test_suppression_keeps_what_torchvision_keeps(spread):
    generator = torch.Generator().manual_seed(spread)
    corners = spread * torch.rand(600, 2, generator=generator)
    boxes = torch.cat([corners, corners + 5 + 25 * torch.rand(600, 2, generator=generator)], 1)
    scores, labels = torch.rand(600, generator=generator), torch.randint(0, 3, (600,), generator=generator)
    found = steps.FixedSteps().suppress(boxes, scores, labels, 0.5, 120)
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
    pooled = steps.FixedSteps().pool(SimpleNamespace(roi_layers=layers, finest_scale=30), maps, boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    for features, scale, here in zip(maps, scales, (sides < 60, (sides >= 60) & (sides < 120), sides >= 120),
                                     strict=True):
        assert here.any()
        expected = roi_align(features, [boxes[here]], (7, 5), scale, samples, aligned=True)
        torch.testing.assert_close(pooled[here], expected, rtol=1e-4, atol=1e-4)


def no_suppression(whole):
    whole.steps.ROUNDS = 0


def places(whole):
    for layer in whole.fused.model.roi_head.bbox_roi_extractor.roi_layers:
        layer.spatial_scale *= 1.02


def mask_samples(whole):
    for layer in whole.fused.model.roi_head.mask_roi_extractor.roi_layers:
        layer.sampling_ratio = 1


@pytest.mark.parametrize('mutation', [weight, channels, score_threshold, suppression, no_suppression, regions,
                                      places, mask_samples])
def test_another_computation_is_noticed(mutation, detector):
    subject = fixed(detector('mask_rcnn_sampled'))
    other = copy.deepcopy(subject.model)
    mutation(other)
    with pytest.raises(ExportError, match='differs? from PyTorch'):
        prove_detections(in_torch(other), subject.model, SHAPE, BOUNDS['fp32'])


@pytest.mark.parametrize('kind, precision', [('rtmdet', 'fp16'), pytest.param(
    'mask_rcnn_sampled', 'fp32', marks=pytest.mark.slow)])
def test_a_core_ml_package_finds_what_mmdet_finds(kind, precision, detector, tmp_path):
    model, selection = detector(kind), Selection(max_detections=20)
    report = export_model(model, 'coreml', SHAPE, tmp_path / 'model.mlpackage', Options(precision, selection=selection))
    assert report.size < 600_000 or kind != 'rtmdet'  # no matrix of all pairs of boxes is in it
    image = photograph(model)
    found = detect(open_exported(report.path, 'coreml'), image, SHAPE)
    expected = by_mmdet(model, image, SHAPE)[:20]
    assert {result.output for result in report.comparisons} == set(fixed(model).outputs)
    if precision == 'fp32':
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.boxes, expected.bboxes, atol=1e-2)
    assert found.scores[0] == pytest.approx(float(expected.scores[0]), abs=BOUNDS[precision].scores)


@pytest.mark.parametrize('name', [marked('litert'), marked('executorch')])
@pytest.mark.parametrize('kind', ['rtmdet', 'mask_rcnn_sampled'])
def test_a_file_finds_what_mmdet_finds(name, kind, detector, tmp_path):
    model = detector(kind)
    report = export_model(model, name, SHAPE, tmp_path / f'model{FORMATS[name].suffix}',
                          Options(selection=Selection(max_detections=20)))
    file, image = open_exported(report.path, name), photograph(model)
    found, expected = detect(file, image, SHAPE), by_mmdet(model, image, SHAPE)[:20]
    assert len(expected) > 5 and found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.boxes, expected.bboxes, atol=2e-3)
    assert file.facts['max_detections'] == 20 and 'are empty' in file.facts['postprocessing']


@pytest.mark.parametrize('name', ['coreml', 'litert', 'executorch'])
def test_adaptive_sampling_is_refused_with_what_to_change(name, detector, tmp_path, monkeypatch):
    if not all(map(find_spec, FORMATS[name].packages)):
        monkeypatch.setattr('repvit_mm.export.formats.need', lambda package: None)
    with pytest.raises(ExportError, match='mask_rcnn takes as many samples .* roi_layer.sampling_ratio .*--pyramid'):
        export_model(detector('mask_rcnn'), name, SHAPE, tmp_path / f'model{FORMATS[name].suffix}',
                     Options(selection=Selection()))
    assert not list(tmp_path.iterdir())


def test_a_format_says_why_it_holds_no_detections(detector):
    assert 'lacks TopK' in why_no_detections('ncnn', detector('rtmdet'))
    for name in ('coreml', 'litert', 'executorch'):
        assert why_no_detections(name, detector('mask_rcnn')).startswith('mask_rcnn takes as many samples')
        assert not why_no_detections(name, detector('mask_rcnn_sampled'))
    assert not why_no_detections('onnx', detector('mask_rcnn'))


def test_core_ml_keeps_one_size_and_the_weights_of_a_whole_detector(detector, tmp_path):
    whole = Options(selection=Selection())
    for options in (whole._replace(weights='int8'), whole._replace(more_shapes=[SHAPE])):
        with pytest.raises(ExportError, match='has one size, and weights as they are'):
            export_model(detector('rtmdet'), 'coreml', SHAPE, tmp_path / 'model.mlpackage', options)
