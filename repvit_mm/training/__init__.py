"""Hooks and optimisation that mmengine lacks, for every toolbox; configs name this in ``custom_imports``."""
from .hooks import ChannelsLast, ModelEmaHook
from .optim import Bfloat16OptimWrapper, PublishedCosineLR, TwoGroupsConstructor

__all__ = ['Bfloat16OptimWrapper', 'ChannelsLast', 'ModelEmaHook', 'PublishedCosineLR', 'TwoGroupsConstructor']
