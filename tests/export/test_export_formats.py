"""Behaviour common to all formats of the table. Those whose packages are missing are skipped."""
import copy
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_models import write_config
from oracles import IMAGENET
from small_detectors import mutate

from repvit_mm import RepViT, fuse
from repvit_mm.cli.doctor import OPTIONAL
from repvit_mm.errors import ExportError, UserError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.files import ExportedFile
from repvit_mm.export.packages import INSTALLED_BY, need
from repvit_mm.export.prepare import prepare
from repvit_mm.export.prove import prove
from repvit_mm.export.report import BOUNDS
from repvit_mm.export.runtimes import ENGINES, open_exported
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights


def marked(name, *others, slow=False):
    packages = FORMATS[name].packages
    marks = [pytest.mark.skipif(not all(map(find_spec, packages)), reason=f'needs {packages}: make check-devices')]
    return pytest.param(name, *others, marks=[*marks, pytest.mark.slow] if slow else marks)


NAMES = [marked(name) for name in FORMATS]


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    return model


@pytest.mark.parametrize('name, path, change', [
    *(marked(name, 'stages.0.blocks.0.token_mixer.bias', lambda bias: bias + 0.01) for name in FORMATS),
    ('onnx', 'stem.conv1.weight', lambda weight: weight / 58), ('onnx', 'stem.conv1.stride', lambda _: (1, 1)),
    ('onnx', 'stem.conv1.weight', lambda weight: weight.flip(1))])
def test_a_file_that_computes_something_else_is_refused_and_leaves_the_old_one(name, path, change, small, tmp_path,
                                                                               monkeypatch):
    row = FORMATS[name]

    def write_another(subject, out, options):
        other = copy.deepcopy(subject.model)
        mutate(other.backbone, path, change)
        return row.write(subject._replace(model=other), out, options)
    monkeypatch.setitem(FORMATS, name, row._replace(write=write_another))
    out = tmp_path / f'model{row.suffix}'
    if row.is_folder:
        out.mkdir()
    else:
        out.write_text('the old one')
    with pytest.raises(ExportError, match=r"stage1 (differs from PyTorch's|has shape)"):
        export_model(small, name, (64, 64), out, Options('fp32'))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert not list(out.iterdir()) if row.is_folder else out.read_text() == 'the old one'


@pytest.mark.parametrize('error, is_proven', [(0., True), (1e-3, False)])
def test_a_file_may_be_more_exact_than_a_model_that_rounding_moves(error, is_proven, small):
    subject = prepare(small, (32, 32), Options('fp32'))
    exact = copy.deepcopy(subject.model).double()
    subject.model.register_forward_hook(lambda _, inputs, maps: tuple(1000 * map.max() + map - 1000 * map.max()
                                                                      for map in maps))

    def run(inputs):
        maps = (map.numpy() for map in exact(torch.from_numpy(inputs['image']).double()))
        return {name: map + error * abs(map).max() for name, map in zip(subject.outputs, maps, strict=True)}
    file = ExportedFile(Path('exact'), torch.no_grad()(run), (), {})
    if is_proven:
        assert max(result.difference for result in prove(file, subject, Options('fp32'))) > BOUNDS['fp32'].outputs
    else:
        with pytest.raises(ExportError, match="differs from PyTorch's"):
            prove(file, subject, Options('fp32'))


@pytest.mark.slow
@pytest.mark.parametrize('name, task', [
    marked(name, task, slow=name in ('executorch', 'litert', 'ncnn') and task in ('segmentation', 'detection'))
    for name in FORMATS for task in ('backbone', 'classification', 'segmentation', 'detection')])
def test_the_file_computes_what_the_unfused_model_computes(name, task, models, tmp_path):
    model, row, path = models(task), FORMATS[name], tmp_path / f'model{FORMATS[name].suffix}'
    dynamic = 'dynamic_size' in row.options
    report = export_model(model, name, (64, 96), path, Options(dynamic_batch=dynamic, dynamic_size=dynamic))
    assert report.size == sum(file.stat().st_size for file in tmp_path.rglob('*') if file.is_file())
    assert report.comparisons and not any('norm' in operation.lower() for operation in report.operations)
    file, shape = open_exported(path, row.engine), (32, 160) if dynamic else (64, 96)
    assert file.shape == ((None, 3, None, None) if dynamic else (1, 3, 64, 96))
    metadata = file.metadata
    assert (tuple(metadata['mean']), tuple(metadata['std'])) == tuple(map(tuple, IMAGENET))
    assert metadata['channels'] == 'RGB'
    assert (metadata['task'], metadata['checkpoint'], metadata['license']) == (task, 'random weights', 'Apache-2.0')
    assert '2307.09283' in metadata['source']
    # Other images than those of the proof, with values that a picture can have.
    mean, std = torch.tensor(IMAGENET)[:, :, None, None]
    images = (torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(1)) - mean) / std
    with torch.no_grad():
        expected = dict(zip(model.output_names(9), model(images), strict=False))
    found = file.run({'image': images.numpy()})
    assert {*expected} <= {*found}
    bound = {'fp32': 1e-4, 'fp16': 2e-2}[row.precisions[0]]
    for output, theirs in expected.items():
        np.testing.assert_allclose(found[output], theirs.numpy(), rtol=0, atol=bound * float(theirs.abs().max()))
    if name == 'coreml' and task == 'classification':
        np.testing.assert_allclose(found['probabilities'], expected['logits'].softmax(1), atol=bound)
    if name == 'coreml' and task == 'segmentation':
        assert found['classes'].dtype == np.int32
        assert (found['classes'] == expected['logits'].argmax(1).numpy()).mean() > 0.98


@pytest.mark.parametrize('name', [marked('litert')])
def test_channels_come_last_on_request(name, models, tmp_path):
    from ai_edge_litert.interpreter import Interpreter
    path, image = tmp_path / 'model.tflite', torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    export_model(models('segmentation'), name, (64, 96), path, Options(layout='nhwc'))
    (source,), (target,) = Interpreter(str(path)).get_input_details(), Interpreter(str(path)).get_output_details()
    assert source['shape'].tolist() == [1, 64, 96, 3] and target['shape'][1:3].tolist() == [64, 96]
    file = open_exported(path, name)
    with torch.no_grad():
        (expected,) = models('segmentation')(image)
    assert file.shape == (1, 3, 64, 96) and file.metadata['layout'] == 'nhwc'
    np.testing.assert_allclose(file.run({'image': image.numpy()})['logits'], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', [marked('ncnn'), marked('coreml')])
def test_weights_are_kept_in_fewer_bits_on_request(name, tmp_path):
    wide = InferenceModel('wide', RepViT({'widths': (64, 128), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(wide)
    path = tmp_path / f'model{FORMATS[name].suffix}'
    options = [Options('fp16'), Options('fp16', weights='int8')] if name == 'coreml' else [
        Options('fp32'), Options('fp16')]
    sizes = [export_model(wide, name, (32, 32), path, one).size for one in options]
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize('name', [marked('ncnn'), marked('executorch'), marked('litert')])
def test_damaged_files_and_those_of_others_are_one_line(name, small, tmp_path):
    row = FORMATS[name]
    path = tmp_path / f'model{row.suffix}'
    (tmp_path / 'other.ncnn.bin').write_text('text')
    other = tmp_path / f'other{row.suffix}'
    other.write_text('text')
    with pytest.raises(ExportError, match=r'other\.[\w.]+ has no metadata: it was not written by the exporters'):
        open_exported(other, name)
    export_model(small, name, (32, 32), path)
    content = path.read_bytes()
    # The number of the format's version is near the beginning of the file.
    path.write_bytes(b'1' * 12 + content[12:])
    with pytest.raises(ExportError, match=rf'cannot read .*model{row.suffix}'):
        open_exported(path, name)


@pytest.mark.parametrize('name', [marked('onnx'), marked('openvino'), marked('litert'), marked('executorch')])
def test_a_run_that_fails_is_one_line(name, small, tmp_path, capfd):
    row, path = FORMATS[name], tmp_path / f'model{FORMATS[name].suffix}'
    file = open_exported(export_model(small, name, (32, 32), path).path, row.engine)
    capfd.readouterr()
    with pytest.raises(ExportError, match=rf'{row.engine} cannot run .*{path.name}: (?!Exception from)[^\n]+$'):
        file.run({'image': np.zeros((1, 3, 64, 64), np.float32)})
    assert name == 'executorch' or not capfd.readouterr().err  # its runtime prints errors, too


@pytest.mark.parametrize('name', FORMATS)
def test_unsupported_options_of_a_format_are_one_line(name, small, tmp_path, monkeypatch):
    row = FORMATS[name]
    out = tmp_path / f'model{row.suffix}'
    monkeypatch.setattr('repvit_mm.export.formats.need', lambda package: None)
    for option, value in {'selection': Selection(), 'dynamic_batch': True, 'dynamic_size': True,
                          'more_shapes': ((64, 64),), 'weights': 'int8', 'layout': 'nhwc'}.items():
        if option not in row.options:
            with pytest.raises(ExportError, match=f'{name} does not take '):
                export_model(small, name, (32, 32), out, Options(**{option: value}))
    with pytest.raises(ExportError, match=f'{name} has no precision bf16: choose from'):
        export_model(small, name, (32, 32), out, Options('bf16'))
    with pytest.raises(ExportError, match=rf'other.zip must end in {row.suffix}'):
        export_model(small, name, (32, 32), tmp_path / 'other.zip')
    with pytest.raises(UserError, match='cannot be written: No such file or directory'):
        export_model(small, name, (32, 32), tmp_path / 'absent' / out.name)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    for package in row.packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r'is not installed: pip install ("repvit-mm\[|--no-deps -r requirements)'):
        export_model(small, name, (32, 32), out)


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / 'other_version.py').write_text('import sys\nsys.renamed')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=r"other_version cannot be imported \(module 'sys' has no .*\): pip install"):
        need('other_version')


def test_the_doctor_names_every_package_of_a_format():
    packages = {package for row in FORMATS.values() for package in row.packages} | set(INSTALLED_BY)
    pieces = {piece.module: piece for piece in OPTIONAL}
    assert not packages - set(pieces)
    assert {name: f'pip install {pieces[name].install[0]}' for name in INSTALLED_BY} == INSTALLED_BY


def test_suffixes_are_those_that_the_engines_run_and_differ():
    main = [Path(f'model{row.suffix}') for row in FORMATS.values()]
    assert {ending for _, endings in ENGINES.values() for ending in endings} == {path.suffix for path in main}
    names = [path.with_suffix(suffix).name for path, row in zip(main, FORMATS.values(), strict=True)
             for suffix in (path.suffix, *row.beside)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('name, arch', [
    ('onnx', {'widths': (8, 16, 16, 16), 'depths': (1, 1, 1, 1), 'first_version': True}),
    pytest.param('onnx', 'm2_3', marks=pytest.mark.slow), pytest.param('coreml', 'm0_6', marks=pytest.mark.slow)])
def test_every_architecture_is_exported_in_its_fused_form(name, arch, tmp_path):
    model = InferenceModel('model', RepViT(arch), BACKBONE)
    randomise_weights(model)
    report = export_model(model, name, (64, 64), tmp_path / f'model{FORMATS[name].suffix}')
    modules = fuse(model).modules()
    convolutions = {'onnx': 'Conv', 'coreml': 'conv'}[name]
    assert report.operations[convolutions] == sum(isinstance(module, torch.nn.Conv2d) for module in modules)


@pytest.mark.slow
def test_exporting_and_opening_files_warns_of_nothing(tmp_path):
    """In processes of their own: packages warn when they are first imported, torch when it is first asked."""
    names = [name for name, row in FORMATS.items() if all(map(find_spec, row.packages))]
    files = [f'{tmp_path}/tiny_classification_64x64{FORMATS[name].suffix}:{FORMATS[name].engine}' for name in names]
    opening = 'from repvit_mm.export.runtimes import open_exported as f; [f(*argv.split(":")) for argv in sys.argv[1:]]'
    for arguments in (['tools/export.py', write_config(tmp_path, 'classification'), '--to', *names, '--shape', '64',
                       '64', '--out', tmp_path], ['-c', f'import sys; {opening}', *files]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not re.search('warn|deprecat|tested|support', done.stdout + done.stderr, re.IGNORECASE)
