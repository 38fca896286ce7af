"""``--help`` of all tools, side by side: an option that several tools have is the same one in each, and says so."""
import argparse
import re
import subprocess
import sys
from collections import defaultdict

import pytest
from running import load_tool

from repvit_mm.analysis.backends import BACKENDS, DTYPES, TRAININGS
from repvit_mm.checkpoints import NAME_FORMATS
from repvit_mm.datasets import formats, shapes
from repvit_mm.export.runtimes import ENGINES
from repvit_mm.sam.evaluation import EVALUATORS
from repvit_mm.sam.instances import RANKINGS
from repvit_mm.zoo import TABLES
from repvit_mm.zoo.reproduction import EVALUATIONS as DATA_SETS
from repvit_mm_cli import TOOLS, find_tools

NAMES = [tool.path.stem for tool in find_tools().values() if tool.path.suffix == '.py']
#: What a value is called. Options that are chosen from a list need no such name.
METAVARS = {'DIR', 'FILE', 'PATH', 'CHECKPOINT', 'DOCUMENT', 'N', 'D', 'P', 'SIZE', 'PIXELS', 'NAME', 'KEY=VALUE',
            'NAME=DIR', 'NAME=FILE', 'H', 'W', 'X', 'Y', 'X1', 'Y1', 'X2', 'Y2'}
#: Options that are called the same, and whose values differ: what each says is its own.
OF_SEVERAL_MEANINGS = {
    '--arch': 'of the image encoder, or of the encoder to combine',
    '--backend': 'of one file, or several to compare',
    '--boxes': 'required by one data set',
    '--cfg-options': 'examples of each tool',
    '--checkpoint': 'of an image encoder, or of any model',
    '--data-root': 'of one',
    '--device': 'any of torch, or one kind',
    '--epochs': 'by the data, or by the config',
    '--fresh': 'what is redone',
    '--json': 'what is written',
    '--out': 'what is written',
    '--overwrite': 'a folder, or a file',
    '--pictures': 'compared or timed',
    '--points-per-side': 'with or without --everything',
    '--precision': 'of one file, or of several',
    '--score-threshold': "the model's or the boxes', with their defaults",
    '--seed': 'of data or of training',
    '--shape': "of the config's test, or fixed",
    '--split': "the data set's names",
    '--threads': 'defaults of each',
    '--to': 'formats of exports or of names',
    '--train': 'scenes, a file, or training steps',
    '--val': 'scenes, or a file',
    '--weights': 'a folder, or a kind of number',
    '--work-dir': 'of one run',
}


def actions(name):
    parser = load_tool(name).build_parser()
    return [action for action in parser._actions if action.dest not in ('help', 'local_rank')]


@pytest.mark.parametrize('name', NAMES)
def test_help_loads_no_torch(name):
    """Torch takes seconds: a tool loads it once its options are parsed."""
    code = ('import atexit, runpy, sys\n'
            'atexit.register(lambda: print(*sorted({"torch", "mmengine"} & {*sys.modules})))\n'
            f'sys.argv[0] = "x"; sys.path.insert(0, {str(TOOLS)!r}); runpy.run_path({str(TOOLS / name)!r} + ".py", '
            'run_name="__main__")')
    output = subprocess.run([sys.executable, '-c', code, '--help'], capture_output=True, text=True).stdout
    assert output.startswith('usage: ') and output.splitlines()[-1] == ''


def test_choices_are_those_of_the_tables():
    choices = {(name, action.dest): action.choices for name in NAMES for action in actions(name)}
    assert choices['test', 'backend'] == tuple(ENGINES)
    assert choices['convert_checkpoint', 'to'] == tuple(NAME_FORMATS)
    assert choices['init', 'format'] == tuple(formats.DATA_FORMATS)
    assert choices['benchmark', 'precision'] == tuple(DTYPES)
    assert choices['draw_shapes', 'layout'] == tuple(shapes.LAYOUTS)
    assert choices['sam_eval', 'ranking'] == RANKINGS
    assert set(choices['sam_eval', 'data_set']) == set(EVALUATORS)
    benchmark, tables = load_tool('benchmark'), load_tool('reproduce_tables')
    assert (tuple(BACKENDS), tuple(TRAININGS)) == (benchmark.BACKENDS, benchmark.TRAININGS)
    assert tuple(TABLES) == tables.TABLES and tuple(dict.fromkeys(name for _, name in DATA_SETS)) == tables.DATA_SETS


@pytest.fixture(scope='module')
def options():
    """Option -> tool -> its action."""
    found = defaultdict(dict)
    for name in NAMES:
        for action in actions(name):
            for option in action.option_strings:
                found[option][name] = action
    return found


def expanded(action):
    """The help of an argument, as it is shown."""
    return argparse.HelpFormatter('tool')._expand_help(action)


def test_an_option_of_several_tools_is_one(options):
    shared = {option: tools for option, tools in options.items() if len(tools) > 1}
    assert len(shared) > 15
    differing = {option for option, tools in shared.items()
                 if len({(expanded(action), str(action.metavar), type(action)) for action in tools.values()}) > 1}
    assert differing <= set(OF_SEVERAL_MEANINGS)
    assert {option for option in OF_SEVERAL_MEANINGS if option not in options} == set()  # the table is not out of date


@pytest.mark.parametrize('name', NAMES)
def test_each_argument_has_a_help_text(name):
    for action in actions(name):
        text = expanded(action)
        assert text and text[-1] != '.' and len(text) < 300, action.dest
        assert not text.startswith('default'), f'{action.dest} tells its default, but not what it is'
        assert not re.search(r'\b(directory|thresh|dir|config file)\b', text), action.dest
        for metavar in [action.metavar] if isinstance(action.metavar, str) else action.metavar or ():
            assert metavar in METAVARS or not action.option_strings, action.option_strings
        assert all(re.fullmatch(r'--[a-z0-9]+(-[a-z0-9]+)*', option) for option in action.option_strings)


@pytest.mark.parametrize('name', NAMES)
def test_help_shows_the_defaults(name):
    for action in actions(name):
        shown = re.findall(r'\(default: (.*?)[,;)]', expanded(action))
        default = action.default
        if default is None or default is False or default in ([], (), {}, [None]) or not action.option_strings:
            continue
        words = ' '.join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        assert shown == [words] or (name, action.dest) == ('sam_eval', 'workers'), f'{action.dest}: {shown}, {words}'


@pytest.mark.parametrize('name', NAMES)
def test_the_description_of_a_tool_is_a_sentence(name):
    text = load_tool(name).build_parser().description
    assert text[0].isupper() and text[-1] == '.'


@pytest.mark.parametrize('name', NAMES)
def test_a_slip_in_an_option_gets_a_guess_under_the_name_that_was_typed(name, monkeypatch, capsys):
    monkeypatch.setenv('REPVIT_MM_COMMAND', f'repvit-mm {name}')
    parser = load_tool(name).build_parser()
    monkeypatch.setattr(parser, '_actions', [])  # nothing else is required
    option = max(parser._option_string_actions, key=len)
    with pytest.raises(SystemExit):
        parser.parse_args([f'{option[:-2]}x{option[-1]}=1'])
    usage, *_, error = capsys.readouterr().err.splitlines()
    assert usage.startswith(f'usage: repvit-mm {name}')
    assert error.endswith(f'; did you mean {option}?')


def test_without_a_similar_option_nothing_is_guessed(capsys):
    with pytest.raises(SystemExit):
        load_tool('infer').build_parser().parse_args(['m1_1', 'x.jpg', '--zzz', '-q'])
    assert capsys.readouterr().err.endswith('error: unrecognized arguments: --zzz -q\n')
