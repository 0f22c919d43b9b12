"""The application: its pages, the frame around them, and the server."""

import os
import socket
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dash import MATCH, ClientsideFunction, Dash, Input, Output, State, dcc, html
from flask import current_app
from werkzeug import serving
from werkzeug.serving import BaseWSGIServer

from falloff.explore import attention, checkpoint, compare, exercises, run_section, scheme

PAGES = {
    "/": scheme,
    "/attention": attention,
    "/compare": compare,
    "/checkpoint": checkpoint,
    "/exercises": exercises,
}
"""The pages by address, in the order of the navigation."""

_LOOPBACK = ("127.0.0.1", "localhost")  # without ::1: Werkzeug takes no IPv6 address for a trusted host
_MOST_SENT = 2**24  # bytes of a request: the page sends a grid at most

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def create_app(path: str = "", *, files: bool = False) -> Dash:
    """The page as an application of Dash; its `server` is one of Flask, for any WSGI server.

    Args:
        path: the checkpoint that the Checkpoint page starts with.
        files: whether the page reads files of this machine: only where no other machine reaches it. Without, there is no
            Checkpoint page, and no run on the Compare page.
    """
    app = Dash(
        "falloff.explore",
        title="falloff explore",
        update_title="",
        index_string=_INDEX,
        suppress_callback_exceptions=True,  # the fields of a page exist only while it is shown
        serve_locally=True,
        enable_mcp=False,
        add_log_handler=False,
    )
    pages = {link: page for link, page in PAGES.items() if files or page is not checkpoint}
    app.layout = _frame(path)
    app.callback(
        Output("page", "children"), Output("navigation", "children"), Output("title", "data"),
        Input("address", "href"), State("checkpoint-path", "data"),
    )(partial(_show, pages, files))  # fmt: skip
    app.clientside_callback(ClientsideFunction("explore", "title"), Output("title", "storage_type"), Input("title", "data"))
    app.clientside_callback(
        ClientsideFunction("explore", "theme"), Output("theme", "data"), Input("toggle-theme", "n_clicks")
    )
    for kind, keys in (("field", ("name",)), ("setting", ("scheme", "name"))):
        own = {"type": kind, **dict.fromkeys(keys, MATCH)}
        app.clientside_callback(
            ClientsideFunction("explore", "follow"),
            Output(own | {"part": "slider"}, "value"), Output(own | {"part": "number"}, "value"),
            Input(own | {"part": "slider"}, "value"), Input(own | {"part": "number"}, "value"),
            State(own | {"part": "ends"}, "data"),
            prevent_initial_call=True,
        )  # fmt: skip
    for page in pages.values():
        page.register(app)
    if files:
        run_section.register(app)
    app.server.config["MAX_CONTENT_LENGTH"] = _MOST_SENT
    for wrong in (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        app.server.register_error_handler(wrong, _refuse)
    return app


def make_server(host: str, port: int, path: str = "") -> BaseWSGIServer:
    """A server of the page that is bound, so that requests wait, but does not serve yet.

    Only a page for this machine alone reads its files: to others it would be a way to read them.

    Raises:
        ValueError: for a `path` at an address that other machines reach.
        OSError: if the address cannot be bound.
    """
    if path and host not in _LOOPBACK:
        raise ValueError(
            f"--host: got {host!r} with a checkpoint, expected one of {', '.join(_LOOPBACK)}: a page for other machines "
            "reads no files (`ssh -L` brings a page of this machine to yours)"
        )
    server = create_app(path, files=host in _LOOPBACK).server
    if host in _LOOPBACK:
        # A page of another site must not read files here under a name of its own that leads to this machine.
        server.config["TRUSTED_HOSTS"] = [*_LOOPBACK]
    # Bound here: werkzeug itself would print and exit.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            said = f"{error.strerror or error} (another --port may be free; 0 takes any)"
            raise OSError(error.errno, said, f"{host}:{port}") from None
        bound.listen(128)
        return serving.make_server(host, port, server, threaded=True, request_handler=_Quiet, fd=os.dup(bound.fileno()))


def _refuse(error: Exception) -> tuple[str, int]:
    """The answer to a request whose values no field of the page sends: a callback need not check their types."""
    current_app.logger.warning("refused a request: %.200r", error)  # one line, whatever was sent
    return "This request has a value that the page cannot use. Load the page again.", 400


class _Quiet(serving.WSGIRequestHandler):
    """Prints no line for each request."""

    def log_request(self, *_: object) -> None:
        pass


def _frame(path: str) -> Any:
    return html.Div(
        [
            dcc.Location(id="address", refresh="callback-nav"),
            dcc.Store(id="theme"),
            dcc.Store(id="title"),
            dcc.Store(id="checkpoint-path", data=path),
            html.A("To the content", href="#page", className="skip"),
            html.Header(
                [
                    html.P("falloff explore", className="brand"),
                    html.Nav(id="navigation", **{"aria-label": "Pages"}),
                    html.Button("Light or dark", id="toggle-theme", type="button", className="quiet"),
                ]
            ),
            html.Main(id="page", tabIndex="-1"),
        ]
    )


def _show(pages: dict[str, ModuleType], files: bool, href: str, stored: str) -> tuple[Any, Any, str]:
    address = urlsplit(href)
    path = address.path
    page = pages.get(path)
    links = [dcc.Link(each.TITLE, href=link, className="here" if link == path else "") for link, each in pages.items()]
    if page is None:
        known = html.P(f"There is no page {path}. Choose one above.")
        return [html.H1("No such page"), known], links, "No such page"
    asked = {name: values[-1] for name, values in parse_qs(address.query).items()}
    asked = {"checkpoint": stored} | {name: value for name, value in asked.items() if name != "files"}
    return page.layout(asked | ({"files": "yes"} if files else {})), links, page.TITLE
