"""Files in int8: calibrated on images, judged by what they decide."""
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_models import WIDTHS, tiny_model
from PIL import Image
from small_detectors import write_detector
from test_export_formats import marked
from tool_runs import set_up

from repvit_mm.errors import DatasetError, ExportError, UserError
from repvit_mm.export import FORMATS, Options, Selection, export_model, judging
from repvit_mm.export.calibration import Images, Quantisation, find_images
from repvit_mm.export.detections import Detections
from repvit_mm.export.images import load_fitted
from repvit_mm.export.prepare import prepare
from repvit_mm.export.runtimes import open_exported
from repvit_mm.io.images import IMAGENET
from repvit_mm.models.inference import build_inference_model, randomise_weights


def draw(folder, number, size=(80, 64)):
    """Images of random coarse colours."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(number)
    for index in range(number):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize(size).save(folder / f'{index}.png')
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return find_images(draw(tmp_path_factory.mktemp('images') / 'all', 16))


@pytest.fixture(scope='module')
def classifier(tmp_path_factory, images):
    """A tiny classifier, and its files in single precision and in int8."""
    folder = tmp_path_factory.mktemp('int8')
    torch.manual_seed(2)
    model = tiny_model(folder, 'classification')
    export_model(model, 'onnx', (64, 64), folder / 'float.onnx')
    options = Options('int8', quantisation=Quantisation(images, allow_loss=True))
    return model, folder, export_model(model, 'onnx', (64, 64), folder / 'int8.onnx', options)


def weights(path):
    import onnx
    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)


def test_an_int8_file_is_smaller_and_decides_alike(classifier, images):
    model, folder, report = classifier
    assert weights(report.path) < 0.5 * weights(folder / 'float.onnx')
    assert report.verdict.file['agreement'] >= 75 and report.verdict.pytorch == {'agreement': 100}
    for path in images.held_out:
        image, _ = load_fitted(path, (64, 64), False, model.normalisation)
        (found,), (expected,) = (open_exported(folder / name, 'onnxruntime').run({'image': image.numpy()}).values()
                                 for name in ('int8.onnx', 'float.onnx'))
        assert 0 < np.abs(found - expected).max() <= 0.5 * np.abs(expected).max()


def test_first_last_depthwise_and_squeezed_layers_stay_in_single_precision(classifier):
    import onnx
    graph = onnx.load(classifier[1] / 'int8.onnx').graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == 'DequantizeLinear'}
    layers = [node for node in graph.node if node.op_type in ('Conv', 'Gemm')]
    parts = 'stem/conv1', 'token_mixer', 'downsample/spatial', 'se/'
    kept = {node.name for node in layers if node.op_type == 'Gemm' or any(part in node.name for part in parts)}
    assert {part for part in parts if any(part in name for name in kept)} == {*parts}
    assert any('channel_mixer/conv1' in node.name for node in layers)
    for node in layers:  # what a layer reads: its map, its weights
        image, weight = (name in dequantised for name in node.input[:2])
        assert not weight if node.name in kept else image and weight
    scales = {tensor.name: tensor.dims for tensor in graph.initializer if tensor.name.endswith('weight_scale')}
    assert any(list(dims) == [WIDTHS[0]] for dims in scales.values())  # one for each channel


def test_a_file_that_loses_too_much_is_refused(classifier, images, monkeypatch):
    model, folder, _ = classifier
    monkeypatch.setattr(judging, 'agreement', lambda *_: 0.9)
    options = Options('int8', quantisation=Quantisation(images))
    file = open_exported(folder / 'int8.onnx', 'onnxruntime')
    with pytest.raises(ExportError, match=r'int8.onnx in int8 loses 10.0 points, more than 5: agreement 90.0 \(PyTorch '
                                          r'100.0\), with PyTorch on 4 held-out images.*--allow-loss'):
        judging.judge(prepare(model, (64, 64), options), file, 'onnxruntime', options)


def test_openvino_takes_the_same_graph(classifier, images, tmp_path):
    model, folder, report = classifier
    options = Options('int8', quantisation=Quantisation(images, allow_loss=True))
    found = export_model(model, 'openvino', (64, 64), tmp_path / 'model.xml', options)
    assert found.verdict.file == report.verdict.file
    assert (tmp_path / 'model.bin').stat().st_size < 0.7 * weights(folder / 'float.onnx')


@pytest.mark.parametrize('name, precision, layout', [
    marked('litert', 'int8', 'nhwc'), marked('litert', 'int8-weights', 'nchw'), marked('executorch', 'int8', 'nchw')])
def test_files_for_phones_decide_alike(name, precision, layout, classifier, images, tmp_path):
    model, *_ = classifier
    options = Options(precision, layout=layout, quantisation=Quantisation(images, allow_loss=True))
    report = export_model(model, name, (64, 64), tmp_path / f'model{FORMATS[name].suffix}', options)
    assert report.verdict.file['agreement'] >= 75
    image, _ = load_fitted(images.held_out[0], (64, 64), False, model.normalisation)
    with torch.no_grad():
        (found,), (expected,) = open_exported(report.path, name).run({'image': image.numpy()}).values(), model(image)
    assert 1e-4 < np.abs(found - expected.numpy()).max() / expected.abs().max() < 0.5  # it does round to 8 bits
    if name == 'litert':
        layers = [*read_layers(report.path)]
        assert all(of_map == of_weight for *_, of_map, of_weight in layers)
        in_8_bits = {output for kind, output, of_map, _ in layers if of_map == np.int8 and kind == 'CONV_2D'}
        assert all('ChannelMixer' in output or 'channel;' in output or 'conv2;' in output for output in in_8_bits)
        assert len(in_8_bits) == (26 if precision == 'int8' else 0) and report.operations['DEQUANTIZE'] >= 26


def read_layers(path):
    """Kind, name of the output, and types of map and weight of each layer of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter
    file = Interpreter(str(path))
    for operation in file._get_ops_details():
        if operation['op_name'] in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED'):
            image, weight, _, output = (file._get_tensor_details(index, 0)
                                        for index in (*operation['inputs'], *operation['outputs']))
            yield operation['op_name'], output['name'], image['dtype'], weight['dtype']


@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_whole_models_of_every_task_are_calibrated(task, models, images, tmp_path):
    model = models(task) if task == 'segmentation' else build_inference_model(write_detector(tmp_path, 'mask_rcnn'))
    detections = Selection(max_detections=5) if task == 'detection' else None
    options = Options('int8', selection=detections, dynamic_size=task == 'segmentation',
                      quantisation=Quantisation(Images(images.calibration[:2], images.held_out[:1]),
                                                allow_loss=True))
    report = export_model(model, 'onnx', (64, 96), tmp_path / 'int8.onnx', options)
    assert report.operations['DequantizeLinear'] > 50 and 0 <= report.verdict.file['agreement'] <= 100


@pytest.mark.slow
def test_the_test_data_of_the_config_judge(images, tmp_path):
    config, data = set_up('mmpretrain', tmp_path)
    model = build_inference_model(config)
    randomise_weights(model)
    quantisation = Quantisation(images, str(data), allow_loss=True)
    verdict = export_model(model, 'onnx', (64, 64), tmp_path / 'int8.onnx',
                           Options('int8', quantisation=quantisation)).verdict
    assert verdict.judge == 'on the 8 images of test_dataloader' and set(verdict.file) == {'top-1'}
    assert verdict.pytorch['top-1'] * 8 % 100 == pytest.approx(0, abs=1e-3) and verdict.limit == 1
    with pytest.raises(DatasetError, match='absent'):
        judging.test_config(model.config, str(tmp_path / 'absent'))


def test_an_image_is_scaled_to_the_file_or_fits_into_it(tmp_path):
    draw(tmp_path / 'images', 1, (80, 20))
    for keep_ratio, size in ((False, (64, 64)), (True, (16, 64))):
        image, found = load_fitted(tmp_path / 'images/0.png', (64, 64), keep_ratio, IMAGENET)
        assert image.shape == (1, 3, 64, 64) and found == size
        assert not image[..., size[0]:, :].any() and image[..., :size[0], :].std() > 0.3


def test_detections_agree_as_far_as_boxes_and_labels_do():
    boxes, scores = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32), np.array([0.9, 0.3], np.float32)
    these = Detections(boxes, scores, np.array([1, 2]))
    near = Detections(boxes + 1, scores, np.array([1, 3]))
    assert judging.matched(these, these) == pytest.approx(1.2)
    assert judging.matched(these, near) == pytest.approx(0.9)
    assert judging.matched(these, Detections(boxes[:0], scores[:0], np.array([], int))) == 0


def test_mistakes_are_one_line(models, images, tmp_path):
    few = draw(tmp_path / 'few', 3)
    broken = draw(tmp_path / 'broken', 8)
    Path(broken / '5.png').write_text('text')
    for folder, message in ((tmp_path / 'absent', 'absent does not exist'),
                            (few, 'it holds 3 images, and at least 8 are needed'),
                            (broken, '5.png is not in a supported image format')):
        with pytest.raises(UserError, match=message):
            find_images(folder)
    quantisation = Quantisation(images)
    for task, name, options, message in (
            ('backbone', 'onnx', Options('int8', quantisation=quantisation), 'a backbone or a pyramid decides'),
            ('detection', 'onnx', Options('int8', quantisation=quantisation), 'a backbone or a pyramid decides'),
            ('backbone', 'onnx', Options('int8'), 'int8 and --calibrate DIR need each other'),
            ('backbone', 'onnx', Options(quantisation=quantisation), 'int8 and --calibrate DIR need each other'),
            ('backbone', 'coreml', Options('int8'), 'Core ML has --weights int8')):
        with pytest.raises(ExportError, match=message):
            export_model(models(task), name, (64, 64), tmp_path / ('x.onnx' if name == 'onnx' else 'x.mlpackage'),
                         options)
