"""Which operators ``mmcv.ops`` gets: mmcv's compiled ones, torchvision's, or an error that says what is missing."""
import sys
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import pytest
import torch
import torchvision
from operator_cases import ops

import repvit_mm.ops
from repvit_mm.errors import UserError
from repvit_mm.ops import EXTENSION, is_provided, provide, torchvision_problem

OURS = repvit_mm.ops.__path__[0] + '/extension.py'


@pytest.fixture
def find():
    """The file that the import of a module from a folder would load."""
    finder = repvit_mm.ops._Finder()
    return lambda folder, name=EXTENSION: finder.find_spec(name, [str(folder)])


def test_where_nothing_is_compiled(find, tmp_path):
    assert find(tmp_path).origin == OURS
    assert find(tmp_path, 'mmcv.ops') is None


def test_compiled_operators_win(find, tmp_path):
    library = tmp_path / f'_ext{EXTENSION_SUFFIXES[0]}'
    library.symlink_to(torch._C.__file__)
    assert find(tmp_path).origin == str(library)


def test_compiled_operators_that_do_not_load(find, tmp_path):
    (tmp_path / f'_ext{EXTENSION_SUFFIXES[0]}').write_bytes(b'for another torch')
    with pytest.warns(UserWarning, match=r"operators cannot be loaded, and torchvision's are used instead; .*_ext"):
        spec = find(tmp_path)
    assert spec.origin == OURS


@pytest.mark.skipif(not is_provided(), reason='mmcv is compiled')
def test_module_is_a_real_one():
    module = sys.modules[EXTENSION]
    assert module.__spec__.name == EXTENSION and module.__file__ == module.__spec__.origin == OURS
    from mmcv.utils import collect_env
    versions = collect_env()
    assert versions['MMCV Compiler'] == f'none: operators of torchvision {torchvision.__version__}'
    cuda = torch.version.cuda
    assert versions['MMCV CUDA Compiler'] == ops.get_compiling_cuda_version() == (cuda or 'not available')


@pytest.mark.parametrize(('error', 'said'), [
    (ModuleNotFoundError(name='torchvision'), 'it is not installed: pip install torchvision$'),
    (RuntimeError('operator torchvision::nms does not exist\nand more'),
     'torchvision 0.23.0 needs torch==2.8.0, from the same index, but torch 2.15.0 is installed '
     r'\(operator torchvision::nms does not exist\): pip install --force-reinstall torch torchvision$'),
    (AttributeError("partially initialized module 'torchvision'"), 'torchvision 0.23.0 needs torch==2.8.0, '),
])
def test_torchvision_that_does_not_fit(monkeypatch, find, tmp_path, error, said):
    def fail(name):
        raise error
    monkeypatch.setattr(repvit_mm.ops, 'import_module', fail)
    monkeypatch.setattr(metadata, 'version', {'torchvision': '0.23.0', 'torch': '2.15.0'}.get)
    monkeypatch.setattr(metadata, 'requires', lambda name: ['numpy', 'torch==2.8.0', 'pillow'])
    with pytest.raises(UserError, match="^mmcv's operators come from torchvision, and " + said) as found:
        find(tmp_path)
    assert '\n' not in str(found.value)


def test_torchvision_that_fits():
    assert torchvision_problem() == ('', '')


def test_only_once(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', [])
    provide()
    provide()
    assert len(sys.meta_path) == 1


def test_mmdet_that_came_first_is_reported(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', [])
    monkeypatch.delitem(sys.modules, 'mmcv.ops')
    monkeypatch.setitem(sys.modules, 'mmdet.structures.mask', ModuleType('mask'))
    with pytest.warns(UserWarning, match='mmdet was imported before repvit_mm: .* import repvit_mm first'):
        provide()
