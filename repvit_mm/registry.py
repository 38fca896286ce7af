"""The scope ``repvit_mm`` of mmengine's registries; mmengine imports it from a module of this name.

Modules that a base config ``repvit_mm::...`` defines are built in this scope. The scope is empty: RepViT is in the
root registries, and everything else in our configs belongs to a toolbox. So every look-up is passed on to the
enclosing scope, that of the toolbox in use.

mmengine's Inferencers find the models of another package by its scope, ``DetInferencer('maskrcnn_repvit_m1_1',
scope='repvit_mm')``, and then no scope encloses it. There the model, which is looked up first, tells the toolbox.
"""
import sys
import time

import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'repvit_mm'
TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')


class SeeThroughRegistry(Registry):
    """A registry that passes look-ups on to the registry of the enclosing scope."""

    def get(self, key: str) -> type | None:
        """Look up a name in the toolbox whose scope encloses this one, or in the root registry."""
        # mmengine's API gives the current scope only; enclosing ones are in this private table.
        scopes = [scope.scope_name for scope in DefaultScope._instance_dict.values() if scope.scope_name != SCOPE]
        found = self._get_in(scopes[-1], key) if scopes else self.root.get(key)
        return self._enter_toolbox(key) if found is None and self.name == 'model' else found

    def _get_in(self, scope: str, key: str) -> type | None:
        with self.root.switch_scope_and_registry(scope) as around:
            return around.get(key)

    def _enter_toolbox(self, key: str) -> type | None:
        """Look up a model in the imported toolboxes, and make the first that has it the default scope from here on."""
        current = DefaultScope.get_current_instance()
        if current is None or current.scope_name != SCOPE or current.instance_name.startswith('overwrite-'):
            return None  # our scope is not what was chosen for good, but that of a base config
        for scope in (scope for scope in TOOLBOXES if scope in sys.modules):
            found = self._get_in(scope, key)
            if found is not None:
                DefaultScope.get_instance(f'{scope}-{time.time()}', scope_name=scope)
                return found
        return None


for registry in vars(mmengine.registry).values():
    if isinstance(registry, Registry):
        SeeThroughRegistry(registry.name, parent=registry, scope=SCOPE)
