"""The scripts of the toolboxes themselves: mmdet's confusion_matrix.py, mmpretrain's vis_scheduler.py, and so on.

A toolbox installs them in its folder ``.mim/tools``. Here they run after ``import repvit_mm``. Without it, those that
import models before they read a config do not find mmcv's operators where mmcv is not compiled, and those of mmseg do
not find ``mmseg::`` in a config where mmseg is the onedl fork.
"""
import ast
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import TRACEBACK_VARIABLE, UserError, did_you_mean, explain

#: Toolboxes with scripts.
WITH_SCRIPTS = ('mmdet', 'mmpretrain', 'mmseg')


def find_scripts(toolbox: str) -> dict[str, Path]:
    """Name -> path of the scripts of an installed toolbox. Does not import it.

    A name is the shortest that is unique: ``browse_dataset``, and ``mot/browse_dataset`` for the one deeper inside.

    Raises:
        UserError: If the toolbox or its scripts are not installed.
    """
    spec = find_spec(toolbox)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'{toolbox} is not installed; `repvit-mm doctor` shows the command')
    folder = Path(spec.submodule_search_locations[0]) / '.mim' / 'tools'
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob('*.py'), key=lambda path: (len(path.parts), path)):
        parts = path.relative_to(folder).with_suffix('').parts
        names = ('/'.join(parts[-length:]) for length in range(1, len(parts) + 1))
        name = next((name for name in names if name not in found), None)
        if name and "__name__ == '__main__'" in path.read_text(encoding='utf-8'):
            found[name] = path
    if not found:
        raise UserError(f'{toolbox} has no scripts in {folder}: it was installed without them')
    return dict(sorted(found.items()))


def describe_script(path: Path) -> str:
    """Description of a script: that of its parser, or else the first line of its docstring."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) == 'ArgumentParser':
            for word in node.keywords:
                if word.arg == 'description' and isinstance(word.value, ast.Constant):
                    return ' '.join(str(word.value.value).split())
    return (ast.get_docstring(tree) or '').partition('\n')[0]


def run_script(toolbox: str, name: str, arguments: Sequence[str]) -> None:
    """Run a script of a toolbox in this process, as ``python SCRIPT ARGUMENTS`` would.

    Args:
        toolbox: One of :data:`WITH_SCRIPTS`.
        name: The script, see :func:`find_scripts`; dashes count as underscores.
        arguments: Its arguments. Configs that are not files are looked up among those installed with this package.

    Raises:
        UserError: If there is no such script, or it fails.
        ConfigError: If a config does not exist.
    """
    from mmengine.registry import init_default_scope

    from ..engine.config import find_config
    scripts = find_scripts(toolbox)
    path = next((path for known, path in scripts.items()
                 if known.replace('-', '_') == name.removesuffix('.py').replace('-', '_')), None)
    if path is None:
        hint = did_you_mean(name, scripts, f'; it has {", ".join(scripts)}')
        raise UserError(f'{toolbox} has no script {name}{hint}')
    # A script's own folder comes first, as some import a neighbour; then the current one, for modules of a config.
    sys.path[:0] = [str(path.parent), os.getcwd()]
    sys.argv = [str(path), *(str(find_config(word)) if _names_config(word, before) else word
                             for before, word in zip(('', *arguments), arguments, strict=False))]
    init_default_scope(toolbox)  # for scripts that build objects of a base `repvit_mm::` before there is a runner
    try:
        runpy.run_path(str(path), run_name='__main__')
    except Exception as error:  # a script can raise anything, such as a KeyError for a metric that a log lacks
        if explain(error) is None:
            raise UserError(f'{toolbox} {path.stem} ends with {type(error).__name__}: {error}; {TRACEBACK_VARIABLE}=1 '
                            'shows where') from error
        raise


def _names_config(word: str, before: str) -> bool:
    """Whether an argument is a config to look up; mmdet's print_config writes one after --save-path."""
    from ..engine.config import installed_configs
    is_name = word in installed_configs() and not before.startswith('-')
    return ((word.endswith('.py') or is_name) and word[0] != '-' and '=' not in word and before != '--save-path'
            and not Path(word).exists())
