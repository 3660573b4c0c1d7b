"""Wheels of a few hundred bytes, and a build backend that makes one: what installing is tested with, offline."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any


def write_wheel(folder: Path, name: str, version: str, content: str = "") -> str:
    """Write a wheel with one module; returns its SHA-256."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", content)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """What pip asks a build backend (PEP 660)."""
    write_wheel(Path(wheel_directory), "tiny_project", "1.0")
    return "tiny_project-1.0-py3-none-any.whl"
