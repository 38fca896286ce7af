"""What a training needs that mmengine lacks, whatever the toolbox."""
from .mixed_precision import Bfloat16OptimWrapper

__all__ = ['Bfloat16OptimWrapper']
