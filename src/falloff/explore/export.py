"""What a Hugging Face Space of kind Docker needs to serve the page: falloff's source, and how to run it."""

from pathlib import Path

from falloff.files import write_file

_README = """---
title: falloff explore
emoji: 📉
colorFrom: indigo
colorTo: green
sdk: docker
app_port: 7860
license: apache-2.0
pinned: false
---

Look at relative positional biases: schemes, attention, exercises. Served by falloff {version}.
To run it elsewhere: `docker build -t falloff-explore . && docker run -p 7860:7860 falloff-explore`.
"""

_DOCKERFILE = """# The page of `falloff explore`, as a Space of Hugging Face runs it: on port 7860, as user 1000.
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
WORKDIR /home/user/app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=user . .
USER user
ENV PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
EXPOSE 7860
CMD ["gunicorn", "--bind", "0.0.0.0:7860", "--workers", "2", "--threads", "4", "--timeout", "120", "app:server"]
"""

_APP = '''"""The page as a WSGI application: gunicorn app:server."""

from falloff.explore.app import create_app

server = create_app().server
'''

_REQUIREMENTS = """torch>=2.11
numpy>=1.26
matplotlib>=3.8
rich>=13.9
dash>=4.1,<5
flask>=3.1
safetensors>=0.5
gunicorn>=23
"""


def export(folder: Path) -> list[Path]:
    """Write the files of a Space to a new or empty folder: Dockerfile, README.md, app.py, requirements.txt and falloff/.

    falloff's source is copied without its C++: the Space installs no compiler, and only counts of skipped keys need it.

    Returns:
        What was written.

    Raises:
        ValueError: if the folder holds files.
        OSError: if a file cannot be written.
    """
    import falloff

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--export: got {str(folder)!r}, expected a new or empty folder")
    source = Path(falloff.__file__).parent
    contents = {
        Path("Dockerfile"): _DOCKERFILE.encode(),
        Path("README.md"): _README.format(version=falloff.__version__).encode(),
        Path("app.py"): _APP.encode(),
        Path("requirements.txt"): _REQUIREMENTS.encode(),
    }
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_file() and path.suffix in (".py", ".css", ".js", ".typed") and "csrc" not in inside.parts:
            contents[Path("falloff") / inside] = path.read_bytes()
    for name, content in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, content)
    return [folder / name for name in contents]
