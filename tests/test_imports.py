"""A room imports only those above it in docs/design.md, inside functions too; and what needs little loads little."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'repvit_mm'
#: The rooms in the order of docs/design.md: each imports those before it only.
ROOMS = ('version', 'memory', 'errors', 'archs', 'io', 'ops', 'checkpoints', 'network', 'training', 'toolboxes',
         'datasets', 'engine', 'sam', 'models', 'export', 'analysis', 'zoo', 'cli')
#: They may import all rooms.
FACADES = ('__init__', '__main__', 'registry')
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)


def room_of(file):
    return file.split('/')[0].removesuffix('.py')


def imported(file, text):
    """Line, and parts of the name below the package, of every import of this package in a file."""
    folder = file.split('/')[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ['repvit_mm', *folder][:len(folder) + 2 - node.level] if node.level else []
            module = above + (node.module.split('.') if node.module else [])
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name[1:]) for name in names if name[0] == 'repvit_mm')


def forbidden(file, text):
    """The imports of a file from rooms after its own, as ``file:line``."""
    room = room_of(file)
    if room in FACADES:
        return
    for line, name in imported(file, text):
        other = room_of(f'{name[0]}/{name[1]}.py') if len(name) > 1 and f'{name[0]}/{name[1]}.py' in FILES else name[0]
        if other != room and ROOMS.index(other) > ROOMS.index(room):
            yield f'repvit_mm/{file}:{line} imports {other}'


@pytest.mark.parametrize('file', FILES)
def test_rooms_import_only_those_before_them(file):
    assert not set(forbidden(file, (PACKAGE / file).read_text()))


@pytest.mark.parametrize(('file', 'text'), [
    ('io/files.py', 'from ..network import x'), ('io/files.py', 'def f():\n    from .. import network'),
    ('checkpoints/loading.py', 'from ..network.backbone import RepViT'),
    ('toolboxes/base.py', 'from ..engine.prepare import x'),
    ('sam/encoder.py', 'import repvit_mm.export.onnx'), ('toolboxes/detection.py', 'from ..export import sam'),
    ('export/onnx.py', 'from .. import analysis'), ('training/head.py', 'from repvit_mm.sam.masks import x')])
def test_an_import_of_a_later_room_is_found(file, text):
    assert len(list(forbidden(file, text))) == 1


@pytest.mark.parametrize(('imports', 'unwanted'), [
    ('repvit_mm', 'mmcv mmdet mmseg mmpretrain timm repvit_mm.engine.runner repvit_mm.toolboxes repvit_mm.training'),
    ('repvit_mm.toolboxes, repvit_mm.engine.runner', 'mmcv mmdet mmseg mmpretrain'),
    ('repvit_mm.training', 'mmcv mmdet mmseg mmpretrain timm'),
    # A backbone alone is exported and measured without what runs configs.
    ('repvit_mm.models.inference, repvit_mm.export, repvit_mm.analysis.benchmark',
     'mmdet mmseg mmpretrain coremltools onnx onnxruntime openvino repvit_mm.engine.runner repvit_mm.training.head'),
    ('repvit_mm_cli, repvit_mm.datasets.formats, repvit_mm.datasets.configs, repvit_mm.datasets.report',
     'torch mmengine mmcv repvit_mm.toolboxes'),
    ('repvit_mm.sam', 'mmcv mmdet mmseg mmpretrain repvit_mm.engine.runner repvit_mm.export')])
def test_unneeded_packages_are_not_imported(imports, unwanted):
    loaded = subprocess.run([sys.executable, '-c', f'import sys, {imports}; print(*sys.modules)'], capture_output=True,
                            text=True, check=True).stdout.split()
    assert not set(unwanted.split()) & set(loaded)
