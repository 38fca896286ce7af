"""Behaviour common to all formats of the table. Those whose packages are missing are skipped."""
import copy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_models import tiny_model

from repvit_mm import RepViT
from repvit_mm.cli.doctor import OPTIONAL
from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.packages import INSTALLED_BY
from repvit_mm.export.runtimes import ENGINES, open_exported
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights


def marked(name):
    packages = FORMATS[name].packages
    return pytest.param(name, marks=pytest.mark.skipif(not all(map(find_spec, packages)),
                                                       reason=f'needs {packages}: make check-devices'))


NAMES = [marked(name) for name in FORMATS]
#: Formats whose files hold one image, and have their metadata at their end.
ONE_IMAGE = [marked(name) for name in ('ncnn', 'executorch', 'litert')]


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    return model


def weight(backbone):
    backbone.stages[0].blocks[0].token_mixer.bias.data += 0.01


def normalisation(backbone):
    backbone.stem.conv1.weight.data /= 58.


def channels(backbone):
    backbone.stem.conv1.weight.data = backbone.stem.conv1.weight.data.flip(1)


def stride(backbone):
    backbone.stem.conv1.stride = (1, 1)


@pytest.mark.parametrize('mutation', [weight, normalisation, channels, stride])
@pytest.mark.parametrize('name', NAMES)
def test_a_file_that_computes_something_else_is_refused_and_leaves_the_old_one(name, mutation, small, tmp_path,
                                                                               monkeypatch):
    row = FORMATS[name]

    def write_another(subject, path, options):
        other = copy.deepcopy(subject.model)
        mutation(other.backbone)
        return row.write(subject._replace(model=other), path, options)
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


@pytest.mark.parametrize('task', ['classification', pytest.param('segmentation', marks=pytest.mark.slow),
                                  pytest.param('detection', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', ONE_IMAGE)
def test_the_file_computes_what_the_unfused_model_computes(name, task, tmp_path):
    model, row = tiny_model(tmp_path, task), FORMATS[name]
    report = export_model(model, name, (64, 96), tmp_path / f'model{row.suffix}')
    assert report.size == sum(path.stat().st_size for path in tmp_path.glob('model.*'))
    file = open_exported(report.path, name)
    assert file.shape == (1, 3, 64, 96) and file.facts['task'] == task and file.facts['channels'] == 'RGB'
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))  # other than in the proof
    with torch.no_grad():
        expected = model(images)
    found = file.run({'image': images.numpy()})
    assert list(found) == model.output_names(len(expected))
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', [marked('ncnn'), marked('onnx'), marked('litert')])
def test_weights_are_kept_in_half_precision_on_request(name, tmp_path):
    wide = InferenceModel('wide', RepViT({'widths': (64, 128), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(wide)
    path = tmp_path / f'model{FORMATS[name].suffix}'
    sizes = [export_model(wide, name, (32, 32), path, Options(precision)).size for precision in ('fp32', 'fp16')]
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize('name', ONE_IMAGE)
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


@pytest.mark.parametrize('name', FORMATS)
def test_what_a_format_does_not_hold_is_one_line(name, small, tmp_path, monkeypatch):
    row = FORMATS[name]
    out = tmp_path / f'model{row.suffix}'
    monkeypatch.setattr('repvit_mm.export.formats.need', lambda package: None)
    for option, value in {'selection': Selection(), 'dynamic_batch': True, 'dynamic_size': True,
                          'more_shapes': ((64, 64),), 'weights': 'int8'}.items():
        if option not in row.options:
            with pytest.raises(ExportError, match=f'{name} does not take '):
                export_model(small, name, (32, 32), out, Options(**{option: value}))
    with pytest.raises(ExportError, match=f'{name} has no precision bf16: choose from .* how an engine computes'):
        export_model(small, name, (32, 32), out, Options('bf16'))
    with pytest.raises(ExportError, match=rf'other.zip must end in {row.suffix}'):
        export_model(small, name, (32, 32), tmp_path / 'other.zip')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', FORMATS)
def test_a_missing_package_is_one_line_that_names_what_installs_it(name, small, tmp_path, monkeypatch):
    for package in FORMATS[name].packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r'is not installed: pip install ("repvit-mm\[|--no-deps -r requirements)'):
        export_model(small, name, (32, 32), tmp_path / f'model{FORMATS[name].suffix}')


def test_the_doctor_names_every_package_of_a_format():
    packages = {package for row in FORMATS.values() for package in row.packages} | set(INSTALLED_BY)
    pieces = {piece.module: piece for piece in OPTIONAL}
    assert not packages - set(pieces)
    assert {name: f'pip install {pieces[name].install[0]}' for name in INSTALLED_BY} == INSTALLED_BY


def test_every_format_that_another_program_runs_here_can_be_tested():
    suffixes = {ending for _, endings in ENGINES.values() for ending in endings}
    assert suffixes == {Path(f'model{row.suffix}').suffix for row in FORMATS.values()}


def test_no_format_overwrites_a_file_of_another():
    names = [Path(f'model{row.suffix}').with_suffix(suffix).name for row in FORMATS.values()
             for suffix in (Path(f'model{row.suffix}').suffix, *row.beside)]
    assert len(names) == len(set(names))
