"""The toolboxes' own scripts: their names, what they are run with, and mistakes."""
import sys

import pytest
from running import run_tool

from repvit_mm.cli.scripts import WITH_SCRIPTS, describe_script, find_scripts

SCRIPT = """
'''What the docstring says.

More.'''
import argparse, json, sys
import neighbour
parser = argparse.ArgumentParser({})
if __name__ == '__main__':
    print(json.dumps([sys.argv[1:], neighbour.NAME]))
"""


@pytest.fixture
def toolbox(tmp_path, monkeypatch):
    """A toolbox of the name of mmdet, with scripts of the names that the real one has."""
    tools = tmp_path / 'mmdet' / '.mim' / 'tools'
    for name in ('train', 'analysis/browse_dataset', 'analysis/mot/browse_dataset', 'misc/browse_dataset'):
        path = tools / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCRIPT.format("description='What the parser says'" if name == 'train' else ''))
        (path.parent / 'neighbour.py').write_text(f'NAME = {name!r}')
    (tmp_path / 'mmdet' / '__init__.py').write_text('raise RuntimeError("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    for name in [name for name in sys.modules if name.split('.')[0] in ('mmdet', 'neighbour')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    return tools


def test_the_shortest_name_that_is_unique(toolbox):
    found = {name: path.relative_to(toolbox).as_posix() for name, path in find_scripts('mmdet').items()}
    assert found == {'train': 'train.py', 'browse_dataset': 'analysis/browse_dataset.py',
                     'misc/browse_dataset': 'misc/browse_dataset.py',
                     'mot/browse_dataset': 'analysis/mot/browse_dataset.py'}


def test_a_script_has_a_description(toolbox):
    scripts = find_scripts('mmdet')
    assert describe_script(scripts['train']) == 'What the parser says'
    assert describe_script(scripts['browse_dataset']) == 'What the docstring says.'
    listed = run_tool('toolbox', 'mmdet')
    assert listed.status == 0 and [line.split()[0] for line in listed.out.splitlines()] == list(scripts)


@pytest.mark.parametrize(('name', 'path'), [('train', 'train'), ('browse-dataset', 'analysis/browse_dataset'),
                                            ('mot/browse_dataset.py', 'analysis/mot/browse_dataset')])
def test_it_runs_beside_its_neighbours_with_its_arguments(toolbox, monkeypatch, name, path):
    monkeypatch.delitem(sys.modules, 'neighbour', raising=False)
    result = run_tool('toolbox', 'mmdet', name, '--help', 'x.txt', '--option=1.py')
    assert (result.status, result.out) == (0, f'[["--help", "x.txt", "--option=1.py"], "{path}"]\n')


def test_installed_configs_are_found_those_here_come_first_and_one_to_write_stays(toolbox, tmp_path):
    (tmp_path / 'mine.py').write_text('')
    result = run_tool('toolbox', 'mmdet', 'train', 'mine.py', 'detection/maskrcnn_repvit_m1_1.py',
                      'maskrcnn_repvit_m1_1', '--work-dir', 'maskrcnn_repvit_m1_1', 'a=b.py', '--save-path', 'new.py')
    mine, *installed, option, folder, setting, word, new = eval(result.out)[0]
    assert (mine, option, folder) == ('mine.py', '--work-dir', 'maskrcnn_repvit_m1_1')
    assert (setting, word, new) == ('a=b.py', '--save-path', 'new.py')
    assert [name.partition('.mim/')[2] for name in installed] == ['configs/detection/maskrcnn_repvit_m1_1.py'] * 2


@pytest.mark.parametrize(('arguments', 'error'), [
    (('mmdet', 'browse_datasets'), 'error: mmdet has no script browse_datasets; did you mean browse_dataset?\n'),
    (('mmdet', 'zzz'), 'error: mmdet has no script zzz; it has browse_dataset, fails, misc/browse_dataset, '),
    (('mmdet', 'train', 'detection/maskrcnn_repvit_m1_2.py'), 'did you mean detection/maskrcnn_repvit_m1_'),
    (('mmdet', 'fails'), "error: mmdet fails ends with KeyError: 'no bbox_mAP'; REPVIT_MM_TRACEBACK=1 shows where\n"),
])
def test_mistakes_are_one_line(toolbox, arguments, error):
    (toolbox / 'fails.py').write_text("if __name__ == '__main__':\n    raise KeyError('no bbox_mAP')")
    result = run_tool('toolbox', *arguments)
    assert (result.status, result.out) == (1, '') and error in result.err and result.err.count('\n') == 1


def test_a_toolbox_that_is_not_installed_or_has_no_scripts(toolbox, monkeypatch):
    for path in toolbox.rglob('*.py'):
        path.unlink()
    assert 'mmdet has no scripts in' in run_tool('toolbox', 'mmdet').err
    monkeypatch.setattr('repvit_mm.cli.scripts.find_spec', lambda name: None)
    assert run_tool('toolbox', 'mmseg').err == 'error: mmseg is not installed; `repvit-mm doctor` shows the ' \
                                              'command\n'


@pytest.mark.parametrize('name', WITH_SCRIPTS)
def test_the_real_ones_have_scripts(name):
    assert {'train', 'test', 'analyze_logs', 'browse_dataset', 'confusion_matrix', 'get_flops', 'print_config'} <= {
        *find_scripts(name)}
