"""The local page: `falloff explore`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def explore(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A safetensors file, a folder of Transformers or a run of `falloff compare`, for the Checkpoint page.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address to serve at. 0.0.0.0 lets other machines in; then the page reads no files."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes any free one.")] = 8050,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="DIR",
            help="Write what a Hugging Face Space (Docker) needs to serve the page, without its Checkpoint page, and stop.",
            show_default=False,
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only serve: open no browser.")] = False,
) -> None:
    """Look at biases in the browser: a page that this machine serves and that asks no other machine for anything.

    Example: falloff explore runs/compare-quick
    """
    # Imported here, so that --help is fast.
    import torch

    if export is not None:
        from falloff.explore.export import export as write_space

        print(f"Written to {export}: {len(write_space(export))} files")
        return
    try:
        from falloff.explore.app import make_server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("dash", "flask", "werkzeug", "safetensors"):
            raise
        raise ImportError(f"{error.name} is not installed: pip install 'falloff[explore]'") from None

    if checkpoint is not None and not checkpoint.exists():
        raise ValueError(f"CHECKPOINT: got {str(checkpoint)!r}, expected a file or folder that exists")
    # A page computes little at a time: on a busy machine, two threads that wait for each other take longer than one.
    torch.set_num_threads(1)
    server = make_server(host, port, "" if checkpoint is None else str(checkpoint.resolve()))
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{reached}:{server.port}"
    if checkpoint is not None:
        address += "/checkpoint"
    print(f"Serving {address} (Ctrl-C stops it)", flush=True)
    if not no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
