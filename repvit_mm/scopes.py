"""Register the names before ``::`` in ``_base_ = 'repvit_mm::detection/...'`` with mmengine."""
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def add_scopes(packages: dict[str, str]) -> None:
    """Extend mmengine's table of packages with configs.

    Also fixes the entry of mmsegmentation: mmengine looks for a distribution of that name, so with the onedl
    fork it would report ``mmseg::`` as not installed.

    Args:
        packages: ``mmengine.config.utils.MODULE2PACKAGE``, scope -> name of the package. Changed in place.
    """
    packages.setdefault('repvit_mm', 'repvit_mm')
    try:
        version('mmsegmentation')
    except PackageNotFoundError:
        if find_spec('mmseg') is not None:
            packages['mmseg'] = 'mmseg'
