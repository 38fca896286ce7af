import json
import sys

import coremltools
import numpy as np
import pytest
import torch
from inference_models import tiny_model
from oracles import IMAGENET

from repvit_mm import RepViT, fuse
from repvit_mm.errors import ExportError, UserError
from repvit_mm.export import Options, coreml, export_model
from repvit_mm.export.mil import MILProgram
from repvit_mm.io.images import Normalisation
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights


def description(package):
    return coremltools.models.MLModel(str(package), skip_model_load=True).get_spec().description


@pytest.mark.parametrize('task, precision', [('backbone', 'fp32'), ('backbone', 'fp16'), ('classification', 'fp16'),
                                             ('segmentation', 'fp16'), ('detection', 'fp32')])
def test_the_package_computes_what_the_unfused_model_computes(models, task, precision, tmp_path):
    model, out = models(task), tmp_path / 'model.mlpackage'
    report = export_model(model, 'coreml', (64, 96), out, Options(precision=precision))
    assert report.comparisons and not {'batch_norm', 'instance_norm'} & set(report.operations)
    # Beside the exporter's own check: a picture of one colour, where a wrong border would show.
    pixels = torch.tensor([200., 30., 90.])[:, None, None].expand(1, 3, 64, 96)
    found = MILProgram(out).run(image=pixels)
    mean, std = torch.tensor(IMAGENET)[:, :, None, None]
    with torch.no_grad():
        expected = model((pixels - mean) / std)
    if task == 'classification':
        found, expected = [found['classLabel_probs']], [expected[0].softmax(1)]
    elif task == 'segmentation':
        agreeing = (found['classes'] == expected[0].argmax(1)).float().mean()
        assert found['classes'].dtype == torch.int32 and agreeing > 0.98
        return
    else:
        found = [found[name] for name in model.output_names(len(expected))]
    bound = {'fp32': 1e-5, 'fp16': 1e-2}[precision]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


def test_the_image_has_the_colours_and_the_normalisation_of_the_model(tmp_path):
    backbone = RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(1,))
    model = InferenceModel('bgr', backbone, BACKBONE, Normalisation((10., 100., 200.), (20., 60., 90.), 'BGR'))
    randomise_weights(model)
    export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage', Options(precision='fp32'))
    image = description(tmp_path / 'model.mlpackage').input[0]
    assert image.type.imageType.colorSpace == image.type.imageType.BGR
    assert image.shortDescription.startswith('BGR image of 32 x 32 pixels (width x height), values from 0 to 255')
    pixels = torch.rand(1, 3, 32, 32) * 255
    mean, std = torch.tensor([[10., 100., 200.], [20., 60., 90.]])[:, :, None, None]
    with torch.no_grad():
        expected = model((pixels - mean) / std)[0]
    found = MILProgram(tmp_path / 'model.mlpackage').run(image=pixels)['stage2']
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_wrong_normalisation_is_noticed(monkeypatch, models, tmp_path):
    original = coreml.CoreMLModel.__init__

    def shifted(self, fused):
        original(self, fused)
        self.bias[1] += 0.05
    monkeypatch.setattr(coreml.CoreMLModel, '__init__', shifted)
    with pytest.raises(ExportError, match="differs from PyTorch's"):
        export_model(models('backbone'), 'coreml', (32, 32), tmp_path / 'model.mlpackage', Options(precision='fp32'))
    assert not list(tmp_path.iterdir())


def test_one_package_takes_several_sizes(models, tmp_path):
    report = export_model(models('segmentation'), 'coreml', (64, 64), tmp_path / 'model.mlpackage',
                          Options(more_shapes=[(32, 96)]))
    assert {result.shape[-2:] for result in report.comparisons} == {(64, 64), (32, 96)}
    sizes = description(tmp_path / 'model.mlpackage').input[0].type.imageType.enumeratedSizes.sizes
    assert {(size.height, size.width) for size in sizes} == {(64, 64), (32, 96)}


def test_a_classifier_has_its_labels_and_doubles_are_told_apart(tmp_path):
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


def test_the_metadata_tell_where_the_package_is_from(models, tmp_path):
    export_model(models('backbone'), 'coreml', (32, 32), tmp_path / 'model.mlpackage')
    metadata = description(tmp_path / 'model.mlpackage').metadata
    assert metadata.license == 'Apache-2.0' and '2307.09283' in metadata.author
    assert json.loads(metadata.userDefined['std']) == [58.395, 57.12, 57.375]
    assert metadata.userDefined['task'] == 'backbone'


def test_int8_weights_take_less_room(tmp_path):
    model = InferenceModel('wide', RepViT({'widths': (64, 128), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    size = export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage').size
    report = export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage', Options(weights='int8'))
    assert report.operations['constexpr_affine_dequantize'] > 4
    assert report.size < 0.7 * size


def test_an_operation_that_is_not_known_is_named(models, tmp_path, monkeypatch):
    from repvit_mm.export.mil_operations import OPERATIONS
    monkeypatch.delitem(OPERATIONS, 'gelu')
    with pytest.raises(ExportError, match='cannot be checked: the operation gelu is not supported'):
        export_model(models('backbone'), 'coreml', (32, 32), tmp_path / 'model.mlpackage')
    assert not list(tmp_path.iterdir())


def test_bad_outputs_and_missing_packages_are_one_line(models, tmp_path, monkeypatch):
    model = models('backbone')
    with pytest.raises(ExportError, match=r'model.zip must end in .mlpackage'):
        export_model(model, 'coreml', (32, 32), tmp_path / 'model.zip')
    with pytest.raises(UserError, match=r'cannot be written: No such file or directory'):
        export_model(model, 'coreml', (32, 32), tmp_path / 'absent' / 'model.mlpackage')
    (tmp_path / 'file.mlpackage').write_text('a file')
    with pytest.raises(UserError, match='there is a file of that name'):
        export_model(model, 'coreml', (32, 32), tmp_path / 'file.mlpackage')
    monkeypatch.setitem(sys.modules, 'coremltools', None)
    with pytest.raises(ExportError, match=r'coremltools is not installed: pip install "repvit-mm\[export\]"'):
        export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage')
    assert [path.name for path in tmp_path.iterdir()] == ['file.mlpackage']


def test_images_of_other_than_three_channels_are_refused(tmp_path):
    model = InferenceModel('grey', RepViT({'widths': (8,), 'depths': (1,)}, 1, out_indices=(0,)), BACKBONE)
    with pytest.raises(ExportError, match='grey takes 1 channels, and only models of colour images'):
        export_model(model, 'coreml', (32, 32), tmp_path / 'model.mlpackage')


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['m0_6', 'm1'])  # the smallest of both versions
def test_a_published_architecture_is_exported(arch, tmp_path):
    model = InferenceModel(arch, RepViT(arch), BACKBONE)
    randomise_weights(model)
    report = export_model(model, 'coreml', (64, 64), tmp_path / 'model.mlpackage')
    assert np.max([result.difference for result in report.comparisons]) < 2e-2
    modules = fuse(model).modules()
    assert report.operations['conv'] == sum(isinstance(module, torch.nn.Conv2d) for module in modules)
