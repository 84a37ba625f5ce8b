"""From a template to a page: everything that comes from outside is escaped, and nothing is fetched.

Templates are Jinja's, which torch brings along, with autoescape on: no value of anybody's can forget it. Each page also
says in a policy that only its own style and script may run, by their hashes.
"""

from __future__ import annotations

import html
import importlib
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from memrecall_kv.errors import MissingDependencyError
from memrecall_kv.report.foreign import shown

_STYLE = "style.css"


def render(template: str, *, script: str | None = None, policy: str | None = None, **values: Any) -> str:
    """Return a page.

    Args:
        template: File in `pages/`.
        script: File in `pages/` with what the page does; nothing if `None`.
        policy: Instead of `page_policy` of the script.
        values: Of the template's names; what is no `Markup` is escaped.

    Raises:
        MissingDependencyError: If the extra `report` is not installed.
    """
    environment = _environment()
    page: str = environment.get_template(template).render(
        style=environment.filters["ours"](_file(_STYLE)),
        script=environment.filters["ours"](_file(script)) if script else None,
        policy=policy or page_policy([script] if script else []),
        **values,
    )
    return page


def page_policy(scripts: Iterable[str] = (), *, also: str = "") -> str:
    """Return a Content-Security-Policy that lets only our style and these scripts in.

    Args:
        scripts: Files in `pages/`.
        also: Further directives.
    """
    allowed = " ".join(_hash(script) for script in scripts) or "'none'"
    rules = f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {allowed}; base-uri 'none'; form-action 'none'"
    return f"{rules}; {also}" if also else rules


def in_frame(page: str) -> str:
    """Return a page inside a frame, in which it can neither run scripts nor touch what is around it."""
    # in a frame a bare #place would be one of the page around it
    page = page.replace('href="#', 'href="about:srcdoc#')
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="" title="Recall report" width="100%" height="720" '
        'style="border: 0"></iframe>'
    )


@cache
def _environment() -> Any:
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise MissingDependencyError(
            "Pages need Jinja2, which is not installed.", 'Run: pip install "memrecall-kv[report]"'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["ours"] = importlib.import_module("markupsafe").Markup
    return environment


@cache
def _file(name: str) -> str:
    return (files("memrecall_kv.report") / "pages" / name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    return f"'sha256-{b64encode(sha256(_file(name).encode()).digest()).decode()}'"
