"""Makes ``_base_ = 'repvit_mm::...'`` work in a config with nothing imported before.

mmengine looks such a name up in a table of its own, before it runs a line of the config, so no import in the
config comes in time. The .pth file of this name, which lies beside the installed package, imports this module
when Python starts. It only waits for mmengine's table to be imported, and then adds to it.
"""
import sys


class _TableFinder:
    """Finds the module with mmengine's table once, in place of the usual finder."""

    def find_spec(self, name, path=None, target=None):
        if name != 'mmengine.config.utils':
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module):
                execute(module)
                _add_scopes(module)

            spec.loader.exec_module = execute_and_add
        return spec


def _add_scopes(table_module):
    # repvit_mm itself cannot be imported here: it needs mmengine, which is in the middle of its own import.
    import importlib.util
    import os
    import runpy
    package = importlib.util.find_spec('repvit_mm')
    if package is not None:
        scopes = runpy.run_path(os.path.join(os.path.dirname(package.origin), 'scopes.py'))
        scopes['add_scopes'](table_module.MODULE2PACKAGE)


sys.meta_path.insert(0, _TableFinder())
