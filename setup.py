"""Everything but the start-up hook is in pyproject.toml."""
import os

from setuptools import setup
from setuptools.command.build_py import build_py

#: Python reads the .pth file in site-packages when it starts; it imports the module.
STARTUP = ('install/repvit_mm_startup.pth', 'install/repvit_mm_startup.py')


class BuildWithStartup(build_py):
    """Puts the start-up hook beside the package, not into it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for path in STARTUP:
                self.copy_file(path, self.build_lib)

    def get_outputs(self, include_bytecode=True):
        startup = [os.path.join(self.build_lib, os.path.basename(path)) for path in STARTUP]
        return super().get_outputs(include_bytecode) + ([] if self.editable_mode else startup)


setup(cmdclass={'build_py': BuildWithStartup})
