import coremltools
import numpy as np
import pytest
import torch
from inference_models import tiny_model

from repvit_mm import RepViT
from repvit_mm.errors import ExportError
from repvit_mm.export import Options, coreml, export_model
from repvit_mm.export.mil import LAYERS, MILProgram
from repvit_mm.io.images import Normalisation
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights


def description(package):
    return coremltools.models.MLModel(str(package), skip_model_load=True).get_spec().description


@pytest.fixture(scope='module')
def bgr(tmp_path_factory):
    """A backbone for BGR images, and its package."""
    backbone = RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(1,))
    model = InferenceModel('bgr', backbone, BACKBONE, Normalisation((10., 100., 200.), (20., 60., 90.), 'BGR'))
    randomise_weights(model)
    path = tmp_path_factory.mktemp('bgr') / 'model.mlpackage'
    return model, export_model(model, 'coreml', (32, 32), path, Options('fp32')).path


def test_the_image_has_the_colours_and_the_normalisation_of_the_model(bgr):
    model, path = bgr
    image = description(path).input[0]
    assert image.type.imageType.colorSpace == image.type.imageType.BGR
    assert image.shortDescription.startswith('BGR image of 32 x 32 pixels (width x height), values from 0 to 255')
    pixels = torch.rand(1, 3, 32, 32) * 255
    mean, std = torch.tensor([[10., 100., 200.], [20., 60., 90.]])[:, :, None, None]
    with torch.no_grad():
        expected = model((pixels - mean) / std)[0]
    found = MILProgram(path).run({'image': pixels.numpy()})['stage2']
    assert np.abs(found - expected.numpy()).max() <= 1e-5 * expected.abs().max()


def test_an_operation_that_is_not_known_is_named(bgr, monkeypatch):
    monkeypatch.delitem(LAYERS, 'conv')
    with pytest.raises(ExportError, match='cannot be checked: the operation conv is not supported'):
        MILProgram(bgr[1]).run({'image': np.zeros((1, 3, 32, 32), np.float32)})


@pytest.mark.slow
def test_one_package_takes_several_sizes(models, tmp_path):
    report = export_model(models('segmentation'), 'coreml', (64, 64), tmp_path / 'model.mlpackage',
                          Options(more_shapes=[(32, 96)]))
    assert {result.shape[-2:] for result in report.comparisons} == {(64, 64), (32, 96)}
    sizes = description(tmp_path / 'model.mlpackage').input[0].type.imageType.enumeratedSizes.sizes
    assert {(size.height, size.width) for size in sizes} == {(64, 64), (32, 96)}


@pytest.mark.slow
def test_a_classifier_has_its_labels_and_duplicates_are_numbered(tmp_path):
    model = tiny_model(tmp_path, 'classification')
    model.classes = ('crane', 'dog', 'crane', 'cat', 'cow', 'hen', 'fox')
    export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage')
    spec = coremltools.models.MLModel(str(tmp_path / 'model.mlpackage'), skip_model_load=True).get_spec()
    assert spec.description.predictedFeatureName == 'classLabel'
    program = MILProgram(tmp_path / 'model.mlpackage')
    (classify,) = (op for op in program.operations if op.op_type == 'classify')
    labels = ['crane (0)', 'dog', 'crane (2)', 'cat', 'cow', 'hen', 'fox']
    assert list(classify.inputs['classes'].val) == labels
    model.classes = None
    assert coreml.class_labels(model, 3) == ['0', '1', '2']
