"""The scripts of the toolboxes themselves: mmdet's confusion_matrix.py, mmpretrain's vis_scheduler.py, and so on.

A toolbox installs them in its folder ``.mim/tools``. Started as they are, those that import models before they read a
config do not find mmcv's operators where mmcv is not compiled, and those of mmseg do not find ``mmseg::`` in a config
where mmseg is the onedl fork: both need ``import repvit_mm`` first, which is done here.
"""
import ast
import difflib
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .configs import find_config
from .errors import UserError, shortened

#: Those with scripts.
TOOLBOXES = ('mmdet', 'mmpretrain', 'mmseg')


def find_scripts(toolbox: str) -> dict[str, Path]:
    """Name -> path of the scripts of an installed toolbox. Does not import it.

    A name is the shortest that is unique: ``browse_dataset``, and ``mot/browse_dataset`` for the one deeper inside.

    Raises:
        UserError: If the toolbox or its scripts are not installed.
    """
    spec = find_spec(toolbox)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'{toolbox} is not installed; `repvit-mm doctor` says how to install it')
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
    """What a script says about itself: the description of its parser, or else its first docstring's first line."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) == 'ArgumentParser':
            for word in node.keywords:
                if word.arg == 'description' and isinstance(word.value, ast.Constant):
                    return str(word.value.value)
    return (ast.get_docstring(tree) or '').partition('\n')[0]


def run_script(toolbox: str, name: str, arguments: Sequence[str]) -> None:
    """Run a script of a toolbox in this process, as ``python SCRIPT ARGUMENTS`` would.

    Args:
        toolbox: One of :data:`TOOLBOXES`.
        name: The script, see :func:`find_scripts`; dashes count as underscores.
        arguments: Its arguments. Configs that are not files are looked up among those installed with this package.

    Raises:
        UserError: If there is no such script.
        ConfigError: If a config does not exist.
    """
    scripts = find_scripts(toolbox)
    path = next((path for known, path in scripts.items()
                 if known.replace('-', '_') == name.removesuffix('.py').replace('-', '_')), None)
    if path is None:
        close = difflib.get_close_matches(name, scripts, n=1)
        hint = f'did you mean {close[0]}?' if close else f'it has {shortened(scripts, len(scripts))}'
        raise UserError(f'{toolbox} has no script {name}; {hint}')
    # A script's own folder comes first, as some import a neighbour; then the current one, for modules of a config.
    sys.path[:0] = [str(path.parent), os.getcwd()]
    sys.argv = [str(path), *(str(find_config(word)) if word.endswith('.py') and word[0] != '-' and '=' not in word
                             and not Path(word).exists() else word for word in arguments)]
    runpy.run_path(str(path), run_name='__main__')
