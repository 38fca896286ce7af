"""Encoder and decoder as ONNX and Core ML files, and segmenting from ONNX alone."""
import numpy as np
import onnx
import pytest
import torch
from matplotlib.cbook import get_sample_data
from running import run_tool
from sam_samples import picture, small_sam
from segment_anything import SamPredictor
from segment_anything.utils.onnx import SamOnnxModel

from repvit_mm.errors import ExportError
from repvit_mm.export.sam import INPUTS, OUTPUTS, SamDecoder, decoder_inputs, export_decoder, export_encoder
from repvit_mm.export.sam_predictor import OnnxPredictor
from repvit_mm.sam import Prompt, read_image, segment

PROMPTS = [
    Prompt(((40, 30),), (1,)), Prompt(((40, 30), (5, 5)), (1, 0)), Prompt(box=(10, 10, 60, 50)),
    Prompt(((40, 30), (5, 5), (70, 50)), (1, 0, 1), (10, 10, 60, 50)),
]


@pytest.fixture(scope='module')
def sam():
    return small_sam()


@pytest.fixture(scope='module')
def files(sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    reports = export_encoder(sam, folder / 'encoder.onnx', 'weights.pt'), export_decoder(sam, folder / 'decoder.onnx')
    return folder, reports


@pytest.mark.parametrize('size', [(60, 80), (80, 60), (64, 64), (7, 33), (200, 31)])
def test_masks_are_resized_as_sam_does(sam, size):
    """Two products with a matrix against segment_anything's two interpolations and a cut, untraced."""
    arrays = decoder_inputs(PROMPTS[0], np.random.randn(1, 256, 4, 4), size, 64).values()
    inputs = [torch.from_numpy(value) for value in arrays]
    masks, scores, low_res = SamDecoder(sam).eval()(*inputs)
    expected, expected_scores, expected_low = SamOnnxModel(sam, return_single_mask=False)(*inputs)
    assert masks.shape == (1, 4, *size)
    torch.testing.assert_close(masks, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, expected_scores)
    torch.testing.assert_close(low_res, expected_low)


def test_points_of_a_prompt_get_the_documented_labels():
    embedding = np.zeros((1, 256, 10, 10))  # of an image of 160 x 160
    assert decoder_inputs(PROMPTS[1], embedding, (80, 160), 160)['point_labels'].tolist() == [[1, 0, -1]]
    inputs = decoder_inputs(PROMPTS[3], embedding, (40, 80), 160)
    assert inputs['point_labels'].tolist() == [[1, 0, 1, 2, 3]]
    assert inputs['point_coords'][0, 3:].tolist() == [[20, 20], [120, 100]]


def test_files_are_compared_and_have_metadata(files):
    folder, (encoder, decoder) = files
    for report in (encoder, decoder):
        assert report.comparisons and all(result.difference <= result.bound for result in report.comparisons)
    # Four prompts on two pictures, three outputs each.
    assert len(decoder.comparisons) == 24
    graph = onnx.load(folder / 'decoder.onnx')
    assert [value.name for value in graph.graph.input] == list(INPUTS)
    assert [value.name for value in graph.graph.output] == list(OUTPUTS)
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
              for value in graph.graph.input}
    assert shapes['point_coords'] == [1, 'points', 2] and shapes['orig_im_size'] == [2]
    metadata = {entry.key: entry.value for entry in onnx.load(folder / 'encoder.onnx').metadata_props}
    assert metadata['checkpoint'] == 'weights.pt' and metadata['arch'] == 'm0_6'
    assert not any(node.op_type == 'BatchNormalization' for node in onnx.load(folder / 'encoder.onnx').graph.node)


@pytest.mark.parametrize('prompt', PROMPTS, ids=['point', 'points', 'box', 'points and box'])
@pytest.mark.parametrize('size', [(60, 80), (150, 100)])
def test_onnx_alone_segments_as_the_predictor_does(sam, files, prompt, size):
    folder, _ = files
    from_onnx, from_torch = OnnxPredictor(folder / 'encoder.onnx', folder / 'decoder.onnx'), SamPredictor(sam)
    for predictor in (from_onnx, from_torch):
        predictor.set_image(picture(*size))
    found, expected = segment(from_onnx, prompt), segment(from_torch, prompt)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.mask.shape == size and (ours.mask == theirs.mask).mean() > 0.999
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_onnx_takes_an_earlier_mask_on_a_photograph(sam, files):
    folder, _ = files
    image = read_image(get_sample_data('grace_hopper.jpg', asfileobj=False))
    from_onnx, from_torch = OnnxPredictor(folder / 'encoder.onnx', folder / 'decoder.onnx'), SamPredictor(sam)
    results = []
    for predictor in (from_onnx, from_torch):
        predictor.set_image(image)
        arguments = np.float32([[200, 300]]), np.int32([1])
        _, _, low_res = predictor.predict(*arguments, multimask_output=False)
        results.append(predictor.predict(*arguments, mask_input=low_res, multimask_output=True, return_logits=True))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    without = from_torch.predict(*arguments, multimask_output=True, return_logits=True)
    assert np.abs(without[0] - results[1][0]).max() > 0.01 * np.abs(without[0]).max()  # the mask counts


def test_files_for_a_rectangle_segment_as_the_predictor_does(tmp_path):
    sam = small_sam((32, 64))
    export_encoder(sam, tmp_path / 'encoder.onnx')
    assert len(export_decoder(sam, tmp_path / 'decoder.onnx').comparisons) == 24
    (image,) = onnx.load(tmp_path / 'encoder.onnx').graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, 32, 64]
    from_onnx, from_torch = OnnxPredictor(tmp_path / 'encoder.onnx', tmp_path / 'decoder.onnx'), SamPredictor(sam)
    for size in ((40, 80), (25, 90)):
        for predictor in (from_onnx, from_torch):
            predictor.set_image(picture(*size))
        for ours, theirs in zip(*(segment(predictor, Prompt(((40, 20),), (1,), (5, 5, 60, 22)))
                                  for predictor in (from_onnx, from_torch)), strict=True):
            assert ours.mask.shape == size and (ours.mask == theirs.mask).mean() > 0.999


def test_wrong_decoder_is_not_written(sam, tmp_path, monkeypatch):
    monkeypatch.setattr(SamDecoder, '_resizing', lambda self, size, scaled, enlarging: torch.ones(
        size.long(), enlarging.shape[1]))
    with pytest.raises(ExportError, match='masks differs from PyTorch'):
        export_decoder(sam, tmp_path / 'decoder.onnx')
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r'must end in .onnx or .mlpackage'):
        export_decoder(sam, tmp_path / 'decoder.tflite')


@pytest.mark.slow
def test_core_ml_files_compute_what_the_predictor_does(sam, tmp_path):
    encoder = export_encoder(sam, tmp_path / 'encoder.mlpackage', precision='fp32')
    decoder = export_decoder(sam, tmp_path / 'decoder.mlpackage')
    assert len(decoder.comparisons) == 24
    assert max(result.difference for result in (*encoder.comparisons, *decoder.comparisons)) < 1e-4
    from coremltools.models import MLModel
    spec = MLModel(str(tmp_path / 'decoder.mlpackage'), skip_model_load=True).get_spec()
    points = next(value for value in spec.description.input if value.name == 'point_coords')
    sizes = points.type.multiArrayType.shapeRange.sizeRanges
    assert [(size.lowerBound, size.upperBound) for size in sizes] == [(1, 1), (1, 64), (2, 2)]


def test_tool_exports_both(tmp_path):
    status, out, _ = run_tool('sam_export', 'onnx', '--encoder', 'repvit_m0_6', '--image-size', 64, '--out',
                              tmp_path / 'out')
    assert not status
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'sam_m0_6_decoder.onnx', 'sam_m0_6_encoder.onnx']
    assert 'onnxruntime' in out
