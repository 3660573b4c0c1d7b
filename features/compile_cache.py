"""Where compiled loops are kept when their source comes to lie in another folder with every upgrade.

numba looks for them under the name of the folder that a file lies in. On a cluster each version of the source is
unpacked into a folder of its own, and every process of every node would compile for half a minute. Here equal files
have one place, wherever they lie.

Not imported by us: numba does, where the environment names it (`deployments/node.py`).
"""

import hashlib
from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator


class CacheByContent(UserProvidedCacheLocator):
    """Keeps what is compiled under `NUMBA_CACHE_DIR`, by the content of the file that it was compiled from."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """Name the folder for a file: as numba asks for it."""
        source = Path(py_file)
        return f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:32]}"
