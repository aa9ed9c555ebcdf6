"""A local source of Pythons for uv: this interpreter, packed like uv's builds of CPython.

uv and pip are the real ones; environment variables point them to local files and a loopback server.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import platform
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hostctl.local_stack import ROOT

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# UV_PYTHON_INSTALL_MIRROR replaces this URL.
_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
_LEFT_OUT = {
    "__pycache__",
    "ensurepip",
    "idlelib",
    "site-packages",
    "sitecustomize.py",
    "test",
    "tkinter",
}


@contextmanager
def downloads(folder: Path) -> Iterator[tuple[Mapping[str, str], list[str]]]:
    """The environment in which uv downloads Pythons from here, and the list of requested paths."""
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            requested.append(self.path)

    mirror = folder / "mirror" / "2026"
    mirror.mkdir(parents=True)
    archive = mirror / "cpython.tar.gz"
    _pack(archive)
    listed = folder / "pythons.json"
    listed.write_text(json.dumps(_listing(f"{_RELEASES}/2026/{archive.name}", archive)))
    _write_uv(folder)
    handler = functools.partial(Handler, directory=str(folder / "mirror"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield (
            {
                "UV_PYTHON_INSTALL_MIRROR": f"http://127.0.0.1:{server.server_port}",
                "UV_PYTHON_DOWNLOADS_JSON_URL": str(listed),
                "UV_CACHE_DIR": str(folder / "cache"),
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(folder),
                "PIP_CONFIG_FILE": "/dev/null",
            },
            requested,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pack(archive: Path) -> None:
    """This interpreter and its standard library, laid out as in python-build-standalone."""
    prefix = Path(sys.base_prefix)
    library = f"lib/python{VERSION}"

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        return None if _LEFT_OUT & set(parts) or any(p.startswith("config-") for p in parts) else member

    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
        program = (prefix / "bin" / f"python{VERSION}").resolve()
        tar.add(program, f"python/bin/python{VERSION}")
        tar.add(prefix / library, f"python/{library}", filter=keep)


def _listing(url: str, archive: Path) -> dict[str, object]:
    libc = "gnu" if sys.platform == "linux" else "none"
    arch = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    patch = sys.version_info[2]
    return {
        f"cpython-{VERSION}.{patch}-{sys.platform}-{arch}-{libc}": {
            "name": "cpython",
            "arch": {"family": arch, "variant": None},
            "os": sys.platform,
            "libc": libc,
            "major": sys.version_info[0],
            "minor": sys.version_info[1],
            "patch": patch,
            "prerelease": "",
            "url": url,
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "variant": None,
            "build": "2026",
        }
    }


def _write_uv(folder: Path) -> None:
    """A wheel with the uv of this checkout."""
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 0.9.99\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / "uv-0.9.99-py3-none-any.whl", "w") as wheel:
        for name, text in about.items():
            wheel.writestr(f"uv-0.9.99.dist-info/{name}", text)
        script = zipfile.ZipInfo("uv-0.9.99.data/scripts/uv")
        script.external_attr = 0o100755 << 16
        wheel.writestr(script, (ROOT / ".venv" / "tools" / "bin" / "uv").read_bytes())
