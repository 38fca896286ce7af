"""Running the tools in this process, which has imported already what each process would import for itself."""
import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from mmengine.utils import ManagerMixin

from repvit_mm.errors import run_cli

TOOLS = Path(__file__).parents[1] / 'tools'


class Finished(NamedTuple):
    """Exit status and output of a tool."""

    status: int
    out: str
    err: str


def load_tool(name: str) -> ModuleType:
    """The module of ``tools/NAME.py``."""
    if str(TOOLS) not in sys.path:  # as for every script, its folder
        sys.path.append(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f'tool_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forget_runs():
    """Drop what mmengine keeps of a run for the rest of the process, as if the next one were a new process."""
    kinds = [ManagerMixin]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind._instance_dict.clear()


def run_tool(name: str, *arguments: object) -> Finished:
    """Run ``tools/NAME.py``."""
    tool, argv, out, err = load_tool(name), sys.argv, io.StringIO(), io.StringIO()
    forget_runs()
    sys.argv = [f'{name}.py', *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_cli(tool.main)
    except SystemExit as end:
        return Finished(end.code or 0, out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
        forget_runs()
