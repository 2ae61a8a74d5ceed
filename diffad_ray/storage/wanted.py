"""Which objects of a listing are wanted: those in scope without a hidden name."""

from __future__ import annotations

from functools import lru_cache

from diffad_ray.storage.listings import FileInfo
from diffad_ray.storage.omissions import HIDDEN, Scope

FOLDERS_REMEMBERED = 10_000
"Size of the cache of decisions whether a folder is wanted; the keys of a folder are listed in sequence."


class WantedKeys:
    """Selects the objects of a listing that are in scope and have no hidden name below the prefix."""

    def __init__(self, root: str, prefix: str, scope: Scope):
        self.start, self.prefix, self.scope = root + prefix, prefix, scope
        self.left_folders = False
        apart = f"{scope.apart}/" if scope.apart else ""
        self.apart = apart.removeprefix(self.start) if apart.startswith(self.start) else ""
        self.has_choice = bool(scope.enters or self.apart)
        self._is_entered = lru_cache(maxsize=FOLDERS_REMEMBERED)(self._is_entered)  # type: ignore[method-assign]

    def enters(self, folder: str) -> bool:
        """Return whether any object below a prefix, given with its slash, may be wanted; counts hidden prefixes."""
        path = folder.removeprefix(self.prefix).removesuffix("/")
        is_wanted = not self._is_hidden(path) and self._is_entered(path)
        self.left_folders = self.left_folders or not is_wanted
        return is_wanted

    def files(self, page: list[FileInfo]) -> list[FileInfo]:
        start = len(self.start)
        # The substring test, which includes the slash before the path, is fast and suffices for most keys.
        files = [f for f in page if "/." not in f.uri[start - 1 :] or not self._is_hidden(f.uri[start:])]
        if not self.has_choice:
            return files
        return [file for file in files if self._is_entered(file.uri[start:].rpartition("/")[0])]

    def _is_hidden(self, path: str) -> bool:
        found = HIDDEN.search(path)
        if found and self.scope.omissions is not None and self._is_entered(path[: found.start()]):
            self.scope.omissions.add_hidden_key(self.start, path)
        return found is not None

    def _is_entered(self, folder: str) -> bool:
        if not folder:
            return True
        return not (self.apart and f"{folder}/".startswith(self.apart)) and self.scope.is_entered(folder)
