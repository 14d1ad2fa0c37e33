"""ONNX Runtime's two packages, of which a machine may have one."""

from importlib.metadata import distributions

from ...errors import ConfigError

PACKAGES = frozenset({"onnxruntime", "onnxruntime-gpu"})
REMEDY = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'dvgwm[onnx-gpu]'"


def check_packages() -> None:
    """Raise `ConfigError` where both are installed: each writes over the other's files, and the last one is imported."""
    found = {str(each.metadata["Name"]).lower().replace("_", "-") for each in distributions()}
    if found >= PACKAGES:
        raise ConfigError(
            "ONNX_BOTH",
            f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other; {REMEDY}, or without a GPU "
            "'dvgwm[onnx]'",
        )
