"""The command ``repvit-mm``.

A process that imports this module before ``repvit_mm``, such as a tool, loads torch only once it needs it.
"""
import ast
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent / 'repvit_mm'
#: The tools: included in a wheel, linked in a checkout.
TOOLS = PACKAGE / '.mim' / 'tools'
#: Title -> its commands, in the order of ``--help``. Tools that are not listed follow at the end.
GROUPS = {
    'Data': ('init', 'draw-shapes'),
    'Train and test': ('quickstart', 'train', 'test', 'toolbox'),
    'Predict': ('infer',),
    'Deploy': ('export', 'fuse', 'convert-checkpoint', 'benchmark', 'get-flops'),
    'Segment anything': ('sam-demo', 'sam-export', 'sam-eval', 'sam-cache-embeddings', 'sam-assemble'),
    'Cluster': ('dist-train', 'dist-test', 'slurm-train', 'slurm-test'),
    'Reference': ('doctor', 'reproduce-tables'),
}
#: What other projects call a command.
ALIASES = {'predict': 'infer', 'val': 'test', 'eval': 'test'}
_DOCTOR = 'Report what is installed, what each missing package disables, and the command that installs it'


class Tool(NamedTuple):
    """A script of the folder ``tools``, and its description in one line."""

    path: Path
    about: str


def find_tools(folder: Path = TOOLS) -> dict[str, Tool]:
    """Command -> tool, for each script in ``folder`` whose name does not start with an underscore."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in ('.py', '.sh') and path.name[0] != '_']
    return {path.stem.replace('_', '-'): Tool(path, _about(path)) for path in paths}


def _about(path: Path) -> str:
    """The first line of a script's docstring or comment, without the usage after its last colon."""
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py':
        line = (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
    else:
        line = next((line for line in text.splitlines() if line.startswith('# ')), '').removeprefix('# ')
    return re.sub(r':( (\S*/)?tools/.*)?$', '', line).rstrip('.')


def run_tool(name: str, tool: Tool, arguments: list[str]) -> None:
    """Replace this process by a tool; does not return.

    As with any ``python -m``, modules in the current folder can be imported, for example by a config.
    """
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get('PYTHONPATH')]))
    command = sys.executable if tool.path.suffix == '.py' else 'bash'
    os.environ.update(PYTHONPATH=path, PYTHON=os.environ.get('PYTHON', sys.executable),
                      REPVIT_MM_COMMAND=f'repvit-mm {name}')  # for its usage
    try:
        os.execvp(command, [command, str(tool.path), *arguments])
    except OSError as error:
        sys.exit(f'error: {tool.path.name} cannot be started: {command}: {error.strerror}')


def overview(tools: dict[str, Tool]) -> str:
    """The text of ``--help``."""
    about = {'doctor': _DOCTOR, **{name: tool.about for name, tool in tools.items()}}
    listed = [name for names in GROUPS.values() for name in names]
    width = max(map(len, about))
    lines = ['usage: repvit-mm [--version] COMMAND ...', '',
             'RepViT for OpenMMLab. COMMAND --help lists its options. A config that is not in the current folder,',
             'such as detection/maskrcnn_repvit_m1_1.py, is looked up among the installed ones.']
    for title, names in {**GROUPS, 'Other': [name for name in about if name not in listed]}.items():
        names = [name for name in names if name in about]
        lines += ['', f'{title}:', *(f'  {name:{width}}  {about[name]}' for name in names)] if names else []
    return '\n'.join(lines)


def _main() -> int | None:
    name, *arguments = sys.argv[1:] or ['--help']
    tools = find_tools()
    command = name.replace('_', '-')
    command = ALIASES.get(command, command)
    if name in ('-h', '--help', 'help'):
        print(overview(tools))
    elif name == '--version':
        from repvit_mm.version import __version__
        print(f'repvit-mm {__version__}')
    elif command == 'doctor':
        from repvit_mm.cli.doctor import main as doctor
        return doctor(arguments)
    elif command in tools:
        run_tool(command, tools[command], arguments)
    else:
        from repvit_mm.errors import did_you_mean
        names = ['doctor', *tools]
        hint = did_you_mean(name, [*names, *ALIASES], f'; choose from {", ".join(names)}')
        sys.exit(f'error: unknown command {name}{hint}')
    return None


def main() -> None:
    """Run the command that the arguments name, and exit."""
    from repvit_mm.errors import run_cli
    run_cli(_main)
