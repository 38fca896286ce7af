"""Parsers of all tools: what ``--help`` loads, choices, and slips."""
import subprocess
import sys

import pytest
from running import load_tool

from repvit_mm.analysis.backends import BACKENDS, DTYPES, TRAININGS
from repvit_mm.checkpoints import NAME_FORMATS
from repvit_mm.datasets import formats, shapes
from repvit_mm.export import FORMATS
from repvit_mm.export.runtimes import ENGINES
from repvit_mm.sam.evaluation import EVALUATORS
from repvit_mm.sam.instances import RANKINGS
from repvit_mm.zoo import TABLES
from repvit_mm.zoo.reproduction import EVALUATIONS as DATA_SETS
from repvit_mm_cli import TOOLS, find_tools

NAMES = [tool.path.stem for tool in find_tools().values() if tool.path.suffix == '.py']


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
    assert (choices['export', 'to'], choices['test', 'backend']) == (tuple(FORMATS), tuple(ENGINES))
    assert choices['convert_checkpoint', 'to'] == tuple(NAME_FORMATS)
    assert choices['init', 'format'] == tuple(formats.DATA_FORMATS)
    assert choices['benchmark', 'precision'] == tuple(DTYPES)
    assert choices['draw_shapes', 'layout'] == tuple(shapes.LAYOUTS)
    assert choices['sam_eval', 'ranking'] == RANKINGS
    assert set(choices['sam_eval', 'data_set']) == set(EVALUATORS)
    benchmark, tables = load_tool('benchmark'), load_tool('reproduce_tables')
    assert (tuple(BACKENDS), tuple(TRAININGS)) == (benchmark.BACKENDS, benchmark.TRAININGS)
    assert tuple(TABLES) == tables.TABLES and tuple(dict.fromkeys(name for _, name in DATA_SETS)) == tables.DATA_SETS


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
