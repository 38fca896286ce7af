"""The command ``repvit-mm``. It is beside the package, whose import loads torch; it needs the standard library only."""
import ast
import difflib
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent / 'repvit_mm'
#: The tools: included in a wheel, linked in a checkout.
TOOLS = PACKAGE / '.mim' / 'tools'
_DOCTOR = 'Report what is installed, what each missing package disables, and the command that installs it'


class Tool(NamedTuple):
    """A script of the folder ``tools``.

    Attributes:
        path: The script.
        about: One line on what it does.
    """

    path: Path
    about: str


def find_tools(folder: Path = TOOLS) -> dict[str, Tool]:
    """Command -> tool, for each script in ``folder`` whose name does not start with an underscore."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in ('.py', '.sh') and path.name[0] != '_']
    return {_command(path): Tool(path, _about(path)) for path in paths}


def _command(path: Path) -> str:
    return path.stem.replace('_', '-')


def _about(path: Path) -> str:
    """The first line of a script's docstring or comment, without the usage after its last colon."""
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py':
        line = (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
    else:
        line = next((line for line in text.splitlines() if line.startswith('# ')), '').removeprefix('# ')
    return re.sub(r':( (\S*/)?tools/.*)?$', '', line).rstrip('.')


def run_tool(tool: Tool, arguments: Sequence[str]) -> None:
    """Replace this process by a tool; does not return.

    As with any ``python -m``, modules in the current folder can be imported, for example by a config.
    """
    python = sys.executable
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get('PYTHONPATH')]))
    is_python = tool.path.suffix == '.py'
    command = [python] if is_python else ['bash']
    name = {'REPVIT_MM_COMMAND': f'repvit-mm {_command(tool.path)}'} if is_python else {}  # for its usage
    sys.stdout.flush()
    try:
        os.execvpe(command[0], [*command, str(tool.path), *arguments],
                   {'PYTHON': python, **os.environ, 'PYTHONPATH': path, **name})
    except OSError as error:
        sys.exit(f'error: {tool.path.name} cannot be started: {command[0]}: {error.strerror}')


def overview(tools: dict[str, Tool]) -> str:
    """The text of ``--help``."""
    commands = {'doctor': _DOCTOR, **{name: tool.about for name, tool in tools.items()}}
    width = max(map(len, commands))
    return '\n'.join([
        'usage: repvit-mm [--version] COMMAND ...', '',
        'RepViT for OpenMMLab. COMMAND --help lists its options. A config that is not in the current folder,',
        'such as detection/maskrcnn_repvit_m1_1.py, is looked up among the installed ones.', '',
        *(f'  {name:{width}}  {about}' for name, about in commands.items())])


def main() -> int | None:
    """Run the command that the arguments name; an unknown one ends the process with an error."""
    name, *arguments = sys.argv[1:] or ['--help']
    tools = find_tools()
    if name in ('-h', '--help', 'help'):
        print(overview(tools))
    elif name == '--version':
        print(f'repvit-mm {runpy.run_path(str(PACKAGE / "version.py"))["__version__"]}')
    elif name == 'doctor':
        from repvit_mm.cli.doctor import main as doctor
        return doctor(arguments)
    elif name.replace('_', '-') in tools:
        run_tool(tools[name.replace('_', '-')], arguments)
    else:
        names = ['doctor', *tools]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean {close[0]}? Choose from' if close else 'choose from'
        sys.exit(f'error: unknown command {name}; {hint} {", ".join(names)}')
    return None
