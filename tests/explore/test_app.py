"""The server, the command and the export, without a browser."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from falloff.cli import run
from falloff.explore.app import create_app, make_server
from falloff.explore.export import export


def test_a_name_of_another_site_is_refused():
    server = make_server("127.0.0.1", 0)
    try:
        client = server.app.test_client()
        assert client.get("/", headers={"Host": f"localhost:{server.port}"}).status_code == 200
        assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400
    finally:
        server.server_close()


@pytest.mark.parametrize(("host", "files"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_only_a_page_for_this_machine_alone_reads_its_files(host, files):
    """The server answers no request that a Checkpoint page or a run makes."""
    server = make_server(host, 0)
    try:
        known = server.app.test_client().get("/_dash-dependencies", headers={"Host": "localhost"}).get_data(as_text=True)
    finally:
        server.server_close()
    assert "curves" in known
    for button in ("open-checkpoint", "show-run"):
        assert (button in known) == files


def test_a_checkpoint_is_for_this_machine_alone(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(["explore", str(tmp_path), "--host", "0.0.0.0", "--no-browser"])
    assert stop.value.code == 2
    assert "--host: got '0.0.0.0' with a checkpoint, expected one of 127.0.0.1" in capsys.readouterr().err


def test_a_port_in_use_is_said_in_one_line():
    server = make_server("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="another --port may be free"):
            make_server("127.0.0.1", server.port)
    finally:
        server.server_close()


def test_the_command_refuses_a_checkpoint_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["explore", "nowhere", "--no-browser"])
    assert stop.value.code == 2
    assert "CHECKPOINT: got 'nowhere', expected a file or folder that exists" in capsys.readouterr().err


def test_an_exported_space_serves_the_page_from_its_own_files(tmp_path):
    space = tmp_path / "space"
    written = export(space)
    assert {"Dockerfile", "README.md", "app.py", "requirements.txt"} <= {path.name for path in written}
    code = (
        "import sys, app, falloff\n"
        "assert falloff.__file__.startswith(sys.argv[1]), falloff.__file__\n"
        "client = app.server.test_client()\n"
        "print(client.get('/').status_code, client.get('/assets/explore.js').status_code)\n"
    )
    # -S and the path by hand: an editable falloff would come before the folder's own.
    paths = os.pathsep.join([str(space), *(path for path in sys.path if path.endswith("-packages"))])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(space)],
        capture_output=True, text=True, cwd=space, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "200 200"
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        export(space)


def test_strangers_read_no_files():
    assert not any("stored-curves" in output or "run-tail" in output for output in create_app().callback_map)
    assert any("stored-curves" in output for output in create_app(files=True).callback_map)


def test_an_ipv6_address_answers_and_is_written_in_brackets(monkeypatch, capsys):
    try:
        server = make_server("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.server_close()
    assert server.app.test_client().get("/", headers={"Host": f"[::1]:{server.port}"}).status_code == 200
    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", lambda self: None)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    with pytest.raises(SystemExit):
        run(["explore", "--host", "::1", "--port", "0", "--no-browser"])
    assert "Serving http://[::1]:" in capsys.readouterr().out
