"""Make our architectures known to transformers' Auto classes.

Nothing of transformers is imported for it: an Auto class learns of our models when it is imported itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def _register_configurations() -> None:
    from transformers import AutoConfig

    from moltune.models import molformer, regression

    AutoConfig.register("molformer", molformer.MolformerConfig, exist_ok=True)
    AutoConfig.register(regression.RegressionConfig.model_type, regression.RegressionConfig, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

    from moltune.models import molformer, regression

    config = molformer.MolformerConfig
    AutoModel.register(config, molformer.MolformerModel, exist_ok=True)
    AutoModelForMaskedLM.register(config, molformer.MolformerForMaskedLM, exist_ok=True)
    AutoModelForSequenceClassification.register(config, molformer.MolformerForSequenceClassification, exist_ok=True)
    AutoModel.register(regression.RegressionConfig, regression.RegressionModel, exist_ok=True)
    AutoModelForSequenceClassification.register(regression.RegressionConfig, regression.RegressionModel, exist_ok=True)


def _register_tokenizers() -> None:
    from transformers import AutoTokenizer

    from moltune.models import molformer

    AutoTokenizer.register(molformer.MolformerConfig, tokenizer_class=molformer.MolformerTokenizer, exist_ok=True)


_WAITING: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
}


class _AfterImport(threading.local):
    """A finder on ``sys.meta_path`` that registers our models after the import of an Auto class.

    transformers' modules and ours import each other, so it waits until none of them is half imported in this thread.
    """

    under_way = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(("transformers.", "moltune.models.")):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_register(module: ModuleType) -> None:
                self.under_way += 1
                try:
                    execute(module)
                finally:
                    self.under_way -= 1
                self.register()

            spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec

    def register(self) -> None:
        """Register with the Auto classes that are imported by now."""
        for name in list(_WAITING):
            if not self.under_way and name in sys.modules:
                _WAITING.pop(name, lambda: None)()


def register_when_imported() -> None:
    """Register MoLFormer and the regression model with the Auto classes, at once or as soon as they are imported."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()
