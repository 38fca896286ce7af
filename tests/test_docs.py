"""README and docs: their commands, the options in them, and what they link to, exist; their Python runs."""
import argparse
import os
import re
import shlex
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from oracles import randomise_norms
from running import load_tool

from repvit_mm import RepViT
from repvit_mm.checkpoints import convert_state_dict, published
from repvit_mm_cli import find_tools

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]
PYPROJECT, MAKEFILE = ((ROOT / name).read_text() for name in ('pyproject.toml', 'Makefile'))
#: Arguments of the launchers before those of the tool that they launch: names of theirs, and None for the tool's.
LAUNCHERS = {'dist_train.sh': [None, 'gpus'], 'dist_test.sh': [None, None, 'gpus'],
             'slurm_train.sh': ['partition', 'job', None, 'work_dir'],
             'slurm_test.sh': ['partition', 'job', None, None]}


def blocks(path, *languages):
    return re.findall(rf'^```(?:{"|".join(languages)})\n(.*?)^```', path.read_text(), re.M | re.S)


def commands():
    for path in PAGES:
        for block in blocks(path, 'bash', 'sh'):
            for line in block.replace('\\\n', ' ').splitlines():
                if words := shlex.split(line, comments=True):
                    yield pytest.param(words, id=f'{path.stem}: {" ".join(words)}')


def check_tool(name, arguments):
    if name in LAUNCHERS:
        assert os.access(ROOT / 'tools' / name, os.X_OK)
        own = LAUNCHERS[name]
        arguments = [word for word, kind in zip(arguments, own, strict=False) if kind is None] + arguments[len(own):]
        name = name.split('_')[-1].replace('.sh', '.py')
    load_tool(name.removesuffix('.py')).build_parser().parse_args(arguments)


def check_pip(words):
    wanted = words[words.index('install') + 1]
    for extra in re.findall(r'\[([\w,-]+)\]', wanted):
        assert re.search(rf'^{extra} = \[', PYPROJECT, re.M), f'no extra {extra}'


def check_command(program, arguments):
    """Of ``repvit-mm``, or of mim, which starts the same tools: ``mim run repvit-mm TOOL``, ``mim train repvit-mm``."""
    if program == 'mim':
        arguments = arguments[1:] if arguments[0] == 'run' else [arguments[1], arguments[0], *arguments[2:]]
        assert arguments[0] == 'repvit-mm'
        own = argparse.ArgumentParser()
        own.add_argument('--gpus')
        own.add_argument('--checkpoint')
        settings, arguments = own.parse_known_args(arguments)
        arguments += [settings.checkpoint] * (settings.checkpoint is not None)
        arguments = arguments[1:]
    name, *rest = arguments
    if name not in ('doctor', '--help'):
        check_tool(find_tools()[name.replace('_', '-')].path.name, rest)


@pytest.mark.parametrize('words', commands())
def test_command_and_its_options_exist(words):
    while '=' in words[0]:  # environment variables
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program == 'make':
        for target in (word for word in arguments if '=' not in word):
            assert re.search(rf'^{target}:', MAKEFILE, re.M)
    elif program == 'pip':
        check_pip(words)
    elif program == 'source':  # venv's own script, in make's VENV
        assert arguments == [re.search(r'^VENV \?= (.+)$', MAKEFILE, re.M)[1] + '/bin/activate']
    elif program.startswith('tools/'):
        check_tool(program.removeprefix('tools/'), arguments)
    elif program == 'python' and arguments[0].startswith('tools/'):
        check_tool(arguments[0].removeprefix('tools/'), arguments[1:])
    elif program == 'python' and arguments[0].startswith('examples/'):  # tests/export/test_examples.py runs them
        assert (ROOT / arguments[0]).is_file() and len(arguments) == (1 if 'web' in arguments[0] else 4)
    elif program == 'npm':
        assert arguments[:2] == ['install', '--prefix'] and (ROOT / arguments[2] / 'package.json').is_file()
    elif program in ('repvit-mm', 'mim'):
        check_command(program, arguments)
    else:
        pytest.fail(f'nothing checks {program}: leave it out of the pages, or check it here')
    for word in words:
        if word.startswith('configs/'):
            assert (ROOT / word).is_file()
        if name := re.fullmatch(r'.*repvit://(\w+)', word):
            assert name[1] in published()


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_links_and_files_of_a_page_exist(path):
    text = path.read_text()
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in target:
            continue
        file, _, anchor = target.partition('#')
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        headings = [re.sub(r'[^\w -]', '', line.lower()).strip().replace(' ', '-')
                    for line in re.findall(r'^#+ (.+)$', page.read_text(), re.M)] if anchor else []
        assert not anchor or anchor in headings, target
    for name in re.findall(r'`((?:tools|configs|repvit_mm|install|docs)/[\w./-]+\.\w+)`', text):
        assert (ROOT / name).exists() or list(ROOT.glob(name.replace('MODEL', '*'))), name


def test_the_names_of_tensors_that_a_page_gives():
    """Each row against the names of a whole classifier, in both formats."""
    heads = [f'head.{layer}.{name}' for layer in ('fc', 'fc_dist')
             for name in ('norm.weight', 'norm.bias', 'norm.running_mean', 'norm.running_var', 'linear.weight',
                          'linear.bias')]
    ours = {f'backbone.{name}': value for name, value in RepViT('m0_6').state_dict().items()}
    ours.update(dict.fromkeys(heads, torch.zeros(1)))
    official = dict(zip(convert_state_dict(ours, to='official'), ours, strict=True))
    page = (ROOT / 'docs' / 'from_the_authors.md').read_text()
    rows = re.findall(r'^\| `((?:features|classifier)\..+?)`.* \| `(.+)` \|$', page, re.M)
    assert len(rows) == 8 and {theirs: official.get(theirs) for theirs, _ in rows} == dict(rows)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server of published files, made here, in the place of the authors' release."""
    folder = tmp_path / 'release'
    folder.mkdir()
    tensors = convert_state_dict(randomise_norms(RepViT('m1_1')).state_dict(), to='official')
    torch.save({'model': tensors}, folder / published()['m1_1_distill_300e'].file)
    server = HTTPServer(('127.0.0.1', 0), partial(SimpleHTTPRequestHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('REPVIT_MM_WEIGHTS_URL', f'http://127.0.0.1:{server.server_port}/')
    monkeypatch.setenv('REPVIT_MM_ALLOW_HTTP', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    yield
    server.shutdown()
    server.server_close()


def test_the_readmes_python_runs(mirror):
    code, = (block for block in blocks(ROOT / 'README.md', 'python') if block.startswith('import torch'))
    names = {}
    exec(code, names)
    assert [tuple(x.shape[-2:]) for x in names['maps']] == [(28, 28), (14, 14), (7, 7)]
    assert not any('norm' in name for name in names['model'].state_dict())
