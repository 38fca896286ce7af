"""The scope ``repvit_mm`` of mmengine's registries, which mmengine looks for in a module of this name.

What a base config ``repvit_mm::...`` defines is built under this scope. It holds nothing: RepViT itself is in
the root registries, and everything else in our configs is a toolbox's. So it lets every look-up through
to the scope around it, which is that of the toolbox in use.
"""
import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'repvit_mm'


class SeeThroughRegistry(Registry):
    """A registry that finds what the registry of the scope around it finds."""

    def get(self, key: str) -> type | None:
        """Look a name up in the toolbox whose scope was current before this one, or in the root registry."""
        # mmengine tells the current scope alone; of those around it, there is only this record.
        scopes = [scope.scope_name for scope in DefaultScope._instance_dict.values() if scope.scope_name != SCOPE]
        if not scopes:
            return self.root.get(key)
        with self.root.switch_scope_and_registry(scopes[-1]) as around:
            return around.get(key)


for registry in vars(mmengine.registry).values():
    if isinstance(registry, Registry):
        SeeThroughRegistry(registry.name, parent=registry, scope=SCOPE)
