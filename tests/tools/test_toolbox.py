"""The toolboxes' own scripts: their names, what they are run with, and mistakes."""
import sys

import pytest
from running import run_tool

SCRIPT = """
import json, sys
import neighbour
if sys.argv[1:] == ['fail']:
    raise KeyError('no bbox_mAP')
print(json.dumps([sys.argv[1:], neighbour.NAME]))
"""


@pytest.fixture
def toolbox(tmp_path, monkeypatch):
    """A toolbox of the name of mmdet."""
    for name in ('train', 'analysis/browse_dataset', 'analysis/mot/browse_dataset'):
        path = tmp_path / f'mmdet/.mim/tools/{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCRIPT)
        (path.parent / 'neighbour.py').write_text(f'NAME = {name!r}')
    (tmp_path / 'mmdet' / '__init__.py').write_text('')
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.split('.')[0] in ('mmdet', 'neighbour')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(('name', 'path'), [('train', 'train'), ('browse_dataset', 'analysis/browse_dataset'),
                                            ('mot/browse_dataset', 'analysis/mot/browse_dataset')])
def test_a_script_runs_beside_its_neighbours_with_installed_configs(toolbox, monkeypatch, name, path):
    monkeypatch.delitem(sys.modules, 'neighbour', raising=False)
    result = run_tool('toolbox', 'mmdet', name, '--help', 'x.py', 'detection/maskrcnn_repvit_m1_1.py')
    (option, new, config), neighbour = eval(result.out)
    assert (option, new, neighbour) == ('--help', 'x.py', path)
    assert config.endswith('.mim/configs/detection/maskrcnn_repvit_m1_1.py')


def test_scripts_are_listed_and_mistakes_are_one_line(toolbox):
    assert {'train', 'analysis/browse_dataset', 'analysis/mot/browse_dataset'} <= {
        *run_tool('toolbox', 'mmdet').out.splitlines()}
    assert run_tool('toolbox', 'mmdet', 'zzz').err == (
        'error: mmdet has no script zzz; `repvit-mm toolbox mmdet` lists them\n')
    assert run_tool('toolbox', 'mmdet', 'train', 'fail').err == (
        "error: mmdet train ends with KeyError: 'no bbox_mAP'; REPVIT_MM_TRACEBACK=1 shows where\n")
