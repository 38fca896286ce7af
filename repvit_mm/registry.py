"""The scope ``repvit_mm`` of mmengine's registries; mmengine imports it from a module of this name.

Modules that a base config ``repvit_mm::...`` defines are built in this scope. The scope is empty: RepViT is in the
root registries, and everything else in our configs belongs to a toolbox. So every look-up is passed on to the
enclosing scope, that of the toolbox in use.
"""
import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'repvit_mm'


class SeeThroughRegistry(Registry):
    """A registry that passes look-ups on to the registry of the enclosing scope."""

    def get(self, key: str) -> type | None:
        """Look up a name in the toolbox whose scope encloses this one, or in the root registry."""
        # mmengine's API gives the current scope only; enclosing ones are in this private table.
        scopes = [scope.scope_name for scope in DefaultScope._instance_dict.values() if scope.scope_name != SCOPE]
        if not scopes:
            return self.root.get(key)
        with self.root.switch_scope_and_registry(scopes[-1]) as around:
            return around.get(key)


for registry in vars(mmengine.registry).values():
    if isinstance(registry, Registry):
        SeeThroughRegistry(registry.name, parent=registry, scope=SCOPE)
