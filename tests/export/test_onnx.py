import copy
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from oracles import IMAGENET

from repvit_mm import RepViT, fuse
from repvit_mm.errors import ExportError, UserError
from repvit_mm.export import Options, export_model, load_images
from repvit_mm.export.images import load_inputs
from repvit_mm.export.runtimes import open_exported
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights

OUTPUTS = {'backbone': ['stage1', 'stage2', 'stage3', 'stage4'], 'classification': ['logits'],
           'segmentation': ['logits'], 'detection': ['level0', 'level1', 'level2', 'level3', 'level4']}


@pytest.mark.parametrize('task', OUTPUTS)
def test_the_file_computes_what_the_unfused_model_computes(models, task, tmp_path):
    model, out = models(task), tmp_path / 'model.onnx'
    report = export_model(model, 'onnx', (64, 96), out, Options(dynamic_batch=True, dynamic_size=True))
    assert report.size == out.stat().st_size
    assert {result.output for result in report.comparisons} == set(OUTPUTS[task])
    # Beside the exporter's own check: sizes and batches that it has not seen.
    image = torch.randn(2, 3, 32, 160)
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    assert [output.name for output in session.get_outputs()] == OUTPUTS[task]
    with torch.no_grad():
        for found, expected in zip(session.run(None, {'image': image.numpy()}), model(image), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_the_metadata_tell_how_to_feed_the_file_and_where_it_is_from(models, tmp_path):
    export_model(models('classification'), 'onnx', (32, 32), tmp_path / 'model.onnx')
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / 'model.onnx').metadata_props}
    assert (json.loads(metadata['mean']), json.loads(metadata['std'])) == IMAGENET
    assert (metadata['channels'], metadata['license'], metadata['task']) == ('RGB', 'Apache-2.0', 'classification')
    assert '2307.09283' in metadata['source']
    assert 'random weights' in metadata['checkpoint']


@pytest.mark.parametrize('dynamic', [True, False])
def test_one_image_or_any_number_of_them(models, dynamic, tmp_path):
    export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'model.onnx', Options(dynamic_batch=dynamic))
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    batch = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    for other in (np.zeros((1, 3, 64, 64), np.float32), *([] if dynamic else [batch])):
        with pytest.raises(Exception, match='Got invalid dimensions'):
            session.run(None, {'image': other})
    found = open_exported(tmp_path / 'model.onnx', 'onnxruntime').run({'image': batch})  # in turns, if need be
    with torch.no_grad():
        expected = models('backbone')(torch.from_numpy(batch))
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options, coreml, nnapi', [
    (Options(), 'YES', 'NO'), (Options(gelu='tanh'), 'YES', 'YES'), (Options(dynamic_batch=True), 'NO', 'NO')])
def test_phones_run_files_for_one_image(models, options, coreml, nnapi, tmp_path):
    """What ``python -m onnxruntime.tools.check_onnx_model_mobile_usability`` says; NNAPI lacks Erf."""
    from onnxruntime.tools.mobile_helpers import usability_checker as checker
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo
    report = export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'model.onnx', options)
    graph = ModelProtoWithShapeInfo(report.path).model_with_shape_info
    found = [checker.check_coreml_partitions(graph, True, 'coreml_supported_mlprogram_ops.md'),
             checker.check_nnapi_partitions(graph, True)]
    assert [answer.suitability().name for answer in found] == [coreml, nnapi]


def test_another_gelu_is_measured(models, tmp_path):
    report = export_model(models('backbone'), 'onnx', (64, 64), tmp_path / 'model.onnx', Options(gelu='tanh'))
    assert 1e-5 < report.gelu < 1e-2 and f'GELU by tanh {report.gelu:.1e}' in str(report)
    image = load_inputs((64, 64), 1, models('backbone').normalisation)
    file = open_exported(report.path, 'onnxruntime')
    with torch.no_grad():
        differences = [np.abs(found - exact.numpy()).max() / exact.abs().max() for found, exact in zip(
            file.run({'image': image.numpy()}).values(), models('backbone')(image), strict=True)]
    assert max(differences) == pytest.approx(report.gelu, rel=0.05) == file.facts['gelu_by_tanh']
    assert {module.approximate for module in models('backbone').modules() if hasattr(module, 'approximate')} == {'none'}


def test_a_backbone_takes_sizes_that_are_not_multiples_of_32(models, tmp_path):
    report = export_model(models('backbone'), 'onnx', (50, 70), tmp_path / 'model.onnx')
    assert [result.shape[2:] for result in report.comparisons[:4]] == [(13, 18), (7, 9), (4, 5), (2, 3)]


@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_where_maps_are_added_up_the_size_is_a_multiple_of_32(models, task, tmp_path):
    with pytest.raises(ExportError, match='50 64 must be a multiple of 32 .* the next larger one is 64 64'):
        export_model(models(task), 'onnx', (50, 64), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('first_version', [False, True])
def test_the_graph_is_fused(tmp_path, first_version):
    arch = {'widths': (8, 16), 'depths': (1, 1), 'first_version': first_version}
    model = InferenceModel('small', RepViT(arch, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    report = export_model(model, 'onnx', (32, 32), tmp_path / 'model.onnx')
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in fuse(model).modules())
    assert report.operations['Conv'] == convolutions and not report.operations['BatchNormalization']


def test_a_file_that_computes_something_else_is_refused_and_leaves_the_old_one(monkeypatch, models, tmp_path):
    model, out = models('backbone'), tmp_path / 'model.onnx'
    out.write_text('the old one')
    from repvit_mm.export import onnx as module

    def save_another(model, *args):
        other = copy.deepcopy(model)
        other.backbone.stages[2].blocks[0].token_mixer.bias.data += 0.01
        save_graph(other, *args)
    save_graph = module.save_graph
    monkeypatch.setattr(module, 'save_graph', save_another)
    with pytest.raises(ExportError, match="stage3 differs from PyTorch's"):
        export_model(model, 'onnx', (32, 32), out)
    assert out.read_text() == 'the old one' and [path.name for path in tmp_path.iterdir()] == ['model.onnx']


def test_an_output_that_cannot_be_written_is_one_line(models, tmp_path):
    with pytest.raises(UserError, match=r'absent/model.onnx cannot be written: No such file or directory'):
        export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'absent' / 'model.onnx')
    (tmp_path / 'folder.onnx').mkdir()
    with pytest.raises(UserError, match='there is a folder of that name'):
        export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'folder.onnx')
    assert [path.name for path in tmp_path.iterdir()] == ['folder.onnx']


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_names_the_extra(monkeypatch, models, package, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf'{package} is not installed: pip install "repvit-mm\[export\]"'):
        export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'model.onnx')


def test_images_are_the_users_or_a_photograph(tmp_path):
    images = load_images((48, 64), 3)
    assert images.shape == (3, 48, 64, 3) and images.dtype == np.uint8
    assert images.std() > 30 and np.abs(np.diff(images.astype(int), axis=0)).mean() > 5
    (tmp_path / 'text.png').write_text('text')
    with pytest.raises(UserError, match='text.png is not in a supported image format'):
        load_images((48, 64), 1, [tmp_path / 'text.png'])


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['m0_6', 'm1', 'm2_3'])  # both versions' blocks, and the deepest
def test_a_published_architecture_is_exported(arch, tmp_path):
    model = InferenceModel(arch, RepViT(arch), BACKBONE)
    randomise_weights(model)
    report = export_model(model, 'onnx', (64, 64), tmp_path / 'model.onnx')
    assert len(report.comparisons) == 8
