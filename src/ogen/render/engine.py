"""Templates by file name: the project's own before the shipped ones, in a sandbox, with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, TemplateError, TemplateNotFound, TemplateSyntaxError

from .. import shipped
from ..errors import RenderError, Where
from .escape import FILTERS
from .sandbox import Sandbox, TooMuch

MAX_SOURCE = 1024 * 1024  # bytes of one template


class Engine:
    """Renders templates for one project; compiled ones are kept."""

    def __init__(self, folder: str | None = None, instead: Mapping[str, str] | None = None) -> None:
        """`folder` is the inventory's; its `templates/` overrides the shipped ones by file name.

        `instead`: templates that come before both, to try a change that is not written.
        """
        self._loader = _Folders(folder, instead or {})
        self._sandbox = Sandbox(self._loader, FILTERS)
        self._plain: dict[str, bytes] = {}

    def render(self, name: str, values: Mapping[str, Any], where: Where | None = None) -> str:
        """The text of the template `name`; a failure names its line and `where` of the inventory."""
        try:
            return self._sandbox.run(name, values)
        except RenderError as error:
            raise RenderError(
                error.message, template=self._line(name, error), where=error.where or where, hint=error.hint
            ) from None
        except TemplateNotFound as error:
            place = self._line(name, error)
            raise RenderError(f"there is no template {error.name!r}", template=place, where=where) from None
        except TemplateSyntaxError as error:
            place = f"{self._shown(error.name or name)}:{error.lineno}"
            raise RenderError(error.message or "bad syntax", template=place, where=where) from None
        except (
            TemplateError,
            TooMuch,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise RenderError(str(error), template=self._line(name, error), where=where) from None
        except (RecursionError, MemoryError):
            raise RenderError("nested too deep", template=self._shown(name), where=where) from None

    def copy(self, name: str) -> bytes:
        """The bytes of a file that is no template: a script, a fixed unit."""
        if name not in self._plain:
            self._plain[name] = self._loader.text(name).encode()
        return self._plain[name]

    def _line(self, name: str, error: BaseException) -> str:
        """The innermost template line of a traceback."""
        place = self._shown(name)
        trace = error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if file.startswith(_Folders.MARK):
                place = f"{file[len(_Folders.MARK) :]}:{trace.tb_lineno}"
            trace = trace.tb_next
        return place

    def _shown(self, name: str) -> str:
        return f"templates/{name}"


class _Folders(BaseLoader):
    """Finds a template by its bare file name; never outside of the two folders."""

    MARK = "<template> "

    def __init__(self, folder: str | None, instead: Mapping[str, str]) -> None:
        self._instead = instead
        self._folders = [Path(folder, "templates")] if folder is not None else []
        self._folders.append(shipped.folder("templates"))

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
        return self.text(template), f"{self.MARK}templates/{template}", None

    def text(self, name: str) -> str:
        """The file's text; TemplateNotFound without one, RenderError where it can't be taken."""
        if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
            raise TemplateNotFound(name)
        if name in self._instead:
            return self._instead[name]
        for folder in self._folders:
            found = folder / name
            if found.is_symlink() or found.exists():
                return self._read(folder, found)
        raise TemplateNotFound(name)

    def _read(self, folder: Path, found: Path) -> str:
        shown = f"templates/{found.name}"
        try:
            project = folder.parent.resolve()
            real = found.resolve(strict=True)
            if not real.is_relative_to(project) or not real.is_file():
                raise RenderError("a template must be a file inside of the project's folder", template=shown)
            if real.stat().st_size > MAX_SOURCE:
                raise RenderError(f"a template must not be larger than {MAX_SOURCE} bytes", template=shown)
            return real.read_bytes().decode()
        except (OSError, RuntimeError) as error:
            raise RenderError(f"can't be read: {getattr(error, 'strerror', error)}", template=shown) from None
        except UnicodeDecodeError:
            raise RenderError("not UTF-8 text", template=shown) from None


@lru_cache(maxsize=1)
def _shipped() -> Engine:
    return Engine()


def engine(folder: str | None, instead: Mapping[str, str] | None = None) -> Engine:
    """An engine for the project in `folder`; one without templates of its own shares the shipped one's."""
    if instead:
        return Engine(folder, instead)
    own = Path(folder, "templates") if folder else None
    return Engine(folder) if own is not None and (own.is_dir() or own.is_symlink()) else _shipped()
