"""The names before ``::`` in ``_base_ = 'repvit_mm::detection/...'`` that mmengine does not know."""
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def add_scopes(packages: dict[str, str]) -> None:
    """Add to mmengine's table of the packages that carry configs.

    Besides our own, mmsegmentation's entry is mended: mmengine looks for a distribution of that name, which
    the onedl fork is not, and would take ``mmseg::`` for not installed.

    Args:
        packages: ``mmengine.config.utils.MODULE2PACKAGE``, scope -> name of the package. Changed in place.
    """
    packages.setdefault('repvit_mm', 'repvit_mm')
    try:
        version('mmsegmentation')
    except PackageNotFoundError:
        if find_spec('mmseg') is not None:
            packages['mmseg'] = 'mmseg'
